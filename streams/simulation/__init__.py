"""A control plane that is played, for the demo."""
