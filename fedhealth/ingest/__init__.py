"""From a hospital's files to a dataset: read, select, decode, join, check, report."""
