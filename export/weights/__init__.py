"""Weights that were trained elsewhere, in files of unknown origin."""
