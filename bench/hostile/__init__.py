"""Attacks on a running server, and what they cost it; `python -m bench.hostile` runs them."""
