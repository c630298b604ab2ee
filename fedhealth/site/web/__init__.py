"""The hospital's page in a browser on its own machine: read what was run, decide on studies, pause."""
