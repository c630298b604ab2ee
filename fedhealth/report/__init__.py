"""The run directory as a page a board can read."""
