"""Everything that can go wrong on the way to an artifact, beside what `artifact` itself refuses.

ExportError                one line that says why
├── DatasetError           pictures or labels are not what a dataset needs
├── DivergedError          the loss is no longer a number
├── GraphError             the exported graph is not what an artifact may hold
├── InapplicableError      an option means nothing for these weights
├── LabelsError            a file holds no labels
├── NoPicturesError        a precision needs pictures
├── OnnxImportError        a graph from elsewhere is not taken
├── PrecisionError         a graph cannot be had in another precision
├── PreprocessingError     a preprocessing cannot be had, or has to be chosen
├── UnknownWeightsError    there are no such weights
└── WeightsError           weights from elsewhere are not taken

Each lies beside what raises it.
"""

_MAX_CHARACTERS = 500


class ExportError(Exception):
    """Nothing was published; the message says why, in one line, whatever names it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Replace line ends and what moves a terminal's cursor, and shorten what is very long."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= _MAX_CHARACTERS else f"{printable[:_MAX_CHARACTERS]}…"
