"""How the sites' answers become one: plain sums, secure sums, robust rules."""
