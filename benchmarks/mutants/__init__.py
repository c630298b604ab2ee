"""Bugs that break privacy, planted at run time, and the hospital that is audited with them."""
