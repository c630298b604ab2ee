"""What hospital IT checks before a site is started: one file a theme, nothing is changed, nothing leaves."""
