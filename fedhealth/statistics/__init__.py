"""Descriptive statistics of the hospitals' patients."""
