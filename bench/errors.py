"""What can go wrong while something is measured."""


class BenchError(Exception):
    """The measurement cannot be made, or broke off; the message says why."""
