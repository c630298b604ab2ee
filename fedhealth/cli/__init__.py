"""The command line: `fedhealth --help`."""
