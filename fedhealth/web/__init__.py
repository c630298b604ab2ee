"""Pages in a browser on this machine, of a hospital or of the lead: the guard, sessions, and what all pages share."""
