"""Runs from Python: launch one, load one, compare several, with pandas tables and a display in notebooks."""
