"""What of the model stays at the site, and how it is trained there: one file per method."""
