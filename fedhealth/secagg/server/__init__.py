"""The lead's side of secure aggregation."""
