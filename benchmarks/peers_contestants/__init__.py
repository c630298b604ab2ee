"""What each contestant of `benchmarks.peers` runs, in its own environment: all but `task` import one peer alone."""
