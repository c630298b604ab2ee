"""A run on disk: its directory, events, status and record."""
