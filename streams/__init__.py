"""The reconciler's streams: events, topics, the Redis transport and the wiring of the app."""
