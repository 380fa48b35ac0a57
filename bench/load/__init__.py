"""The load generator: so many requests outstanding, or requests that arrive, with checked answers."""
