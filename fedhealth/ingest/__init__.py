"""From a hospital's files to a cohort: read, select, decode, join, check, report."""
