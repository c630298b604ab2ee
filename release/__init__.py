"""Build a release: one signed archive, from a commit, with the same bytes wherever it is built. `python -m release`."""
