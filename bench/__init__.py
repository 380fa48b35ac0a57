"""Measured comparisons, each a command that prints a table."""
