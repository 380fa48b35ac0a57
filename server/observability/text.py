"""Text of others, made fit for a line that people read: names, reasons, messages of a peer."""

import unicodedata

MAX_CHARACTERS = 200  # of a name or a reason: a line of a wide terminal; files and peers could send megabytes

# Control characters and surrogates, line and paragraph separators, and the format characters, with which
# right-to-left overrides and zero widths make a text look like another.
_UNSAFE = frozenset({"Cc", "Cs", "Cf", "Zl", "Zp"})


def printable(text: str, most: int = MAX_CHARACTERS) -> str:
    """Escape what a terminal would obey rather than show, and cut what is longer than a bound."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(_escaped(character) for character in cut)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode("ascii")
