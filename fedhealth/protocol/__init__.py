"""What crosses the network between lead and sites."""
