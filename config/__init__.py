"""Settings, embedded servers and migrations: what the outside decides."""
