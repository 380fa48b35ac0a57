"""Text that others wrote, fit for one line of a log, a terminal or a status."""

MAX_CHARACTERS = 200  # of a reason or a name; gRPC sends statuses in headers, which have room for 8 kB in all


def printable(text: str, limit: int = MAX_CHARACTERS) -> str:
    r"""Escape control, bidirectional and other invisible characters as ``\x1b``, and shorten what is long."""
    shortened = text if len(text) <= limit else f"{text[: limit - 1]}…"
    if shortened.isprintable():
        return shortened
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in shortened
    )
    return escaped if len(escaped) <= limit else f"{escaped[: limit - 1]}…"
