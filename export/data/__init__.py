"""The pictures that networks are trained and judged on, and their labels."""
