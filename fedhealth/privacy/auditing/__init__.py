"""Audits of private training, from one step to canaries."""
