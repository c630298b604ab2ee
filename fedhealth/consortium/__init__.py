"""Trust between lead and sites: signatures, certificates, members, join requests, join kits and signed jobs."""
