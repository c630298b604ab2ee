"""Sources beyond a folder: archives and record systems of a hospital. Each is a class that the settings name."""
