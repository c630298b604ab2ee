"""What both sides of secure aggregation share: messages, layout, thresholds, rules."""
