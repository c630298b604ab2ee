"""How a site's answer leaves: in the open, or sealed for secure aggregation."""
