"""Numbers for Prometheus: how a site and how the lead's runs stand. Nothing in them is about a patient."""
