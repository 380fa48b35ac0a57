"""Bytes that a test hands in to see how much of them is looked at."""


class Watched(bytes):
    """Bytes that count how often Python looks into them.

    Attributes:
        looks: so far.
    """

    def __new__(cls, content: bytes) -> "Watched":
        self = super().__new__(cls, content)
        self.looks = 0
        return self

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)
