"""Text from a foreign file, fit to be printed in a message of one line."""

from export.errors import ExportError

_MAX_CHARACTERS = 500


class OneLineError(ExportError):
    """An error whose message is one line, whatever names it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Replace line ends and what moves a terminal's cursor, and shorten what is very long."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= _MAX_CHARACTERS else f"{printable[:_MAX_CHARACTERS]}…"
