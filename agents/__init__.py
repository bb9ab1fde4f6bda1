"""The stages that events pass: route, dispatch, one agent per verb, and the hook sinks."""
