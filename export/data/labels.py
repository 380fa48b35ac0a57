"""The label file that comes with weights or an ONNX file: one label a line, UTF-8."""

from pathlib import Path

from artifact.manifest import MAX_LABEL_CHARACTERS, MAX_LABELS, MAX_LABELS_BYTES
from export.errors import ExportError


class LabelsError(ExportError):
    """The file holds no labels; the message says why, in one line."""


def read(path: Path) -> tuple[str, ...]:
    """Read the labels, in the order of the network's outputs.

    Raises:
        LabelsError: the file cannot be read, a label is empty or too long, or there are fewer than two.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_LABELS_BYTES + 1)
        labels = tuple(line.strip() for line in content.decode("utf-8-sig").splitlines())
    except OSError as error:
        raise LabelsError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path.name} is not a text in UTF-8") from error
    if len(content) > MAX_LABELS_BYTES or len(labels) > MAX_LABELS:
        raise LabelsError(
            f"{path.name} holds more than {MAX_LABELS:,} labels, or {MAX_LABELS_BYTES >> 20} MiB"
        )
    if "" in labels:
        raise LabelsError(f"line {labels.index('') + 1} of {path.name} is empty; every line is a label")
    if (longest := max(map(len, labels), default=0)) > MAX_LABEL_CHARACTERS:
        raise LabelsError(
            f"{path.name} holds a label of {longest:,} characters, at most {MAX_LABEL_CHARACTERS:,} allowed"
        )
    if len(labels) < 2:
        raise LabelsError(f"{path.name} holds {len(labels)} labels; a classifier needs two or more")
    return labels
