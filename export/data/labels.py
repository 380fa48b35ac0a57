"""Labels that come with weights or an ONNX file: one a line, or as JSON or Python write lists and maps."""

import ast
import json
from pathlib import Path
from typing import Any

from artifact.manifest import MAX_LABEL_CHARACTERS, MAX_LABELS, MAX_LABELS_BYTES
from export.errors import ExportError

_MAX_LITERAL_CHARACTERS = 1 << 20  # parsing takes some hundred times as many bytes


class LabelsError(ExportError):
    """These are no labels; the message says why, in one line."""


def read(path: Path) -> tuple[str, ...]:
    """Read a label file, in the order of the network's outputs; see `parse`.

    Raises:
        LabelsError: the file cannot be read, or holds no labels.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_LABELS_BYTES + 1)
        if len(content) > MAX_LABELS_BYTES:  # cut perhaps within a character
            raise _too_many(path.name)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise LabelsError(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path.name} is not a text in UTF-8") from error
    return parse(text, path.name)


def parse(text: str, name: str) -> tuple[str, ...]:
    """Find labels in a text, in the order of the network's outputs.

    Args:
        text: a label a line; or a list of them; or a map from labels to indices or from indices to labels,
            where a label may also be a list with the label last, as Keras writes ImageNet's. Lists and maps
            are in JSON or in Python's notation.
        name: of the text, for messages.

    Raises:
        LabelsError: a label is empty, too long or more than a line, indices are not those from 0, or there
            are fewer than two labels, or too many.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_LABELS_BYTES:
        raise _too_many(name)
    found = _literal(text) if text.lstrip()[:1] in ("[", "{", "(") else None
    if found is None and name.lower().endswith(".json"):
        raise LabelsError(f"{name} is no JSON list or map of labels")
    if found is None:
        labels = tuple(line.strip() for line in text.splitlines())
        place = "line"
    else:
        labels = tuple(_label(item, name) for item in _in_order(found, name))
        place = "label"
    if len(labels) > MAX_LABELS:
        raise _too_many(name)
    if "" in labels:
        raise LabelsError(f"{place} {labels.index('') + 1} of {name} is empty; every {place} is a label")
    if (longest := max(map(len, labels), default=0)) > MAX_LABEL_CHARACTERS:
        raise LabelsError(
            f"{name} holds a label of {longest:,} characters, at most {MAX_LABEL_CHARACTERS:,} allowed"
        )
    if len(labels) < 2:
        raise LabelsError(f"{name} holds {len(labels)} labels; a classifier needs two or more")
    return labels


def _literal(text: str) -> list[Any] | dict[Any, Any] | None:
    """Read a list or a map; None where it is none, so that a label may begin with a bracket."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text.strip()) if len(text) <= _MAX_LITERAL_CHARACTERS else None
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = None
    if isinstance(found, tuple):
        found = list(found)
    return found if isinstance(found, list | dict) else None


def _in_order(found: list[Any] | dict[Any, Any], name: str) -> list[Any]:
    """Return the items of a list, or what a map has for the indices from 0."""
    if isinstance(found, dict) and isinstance(found.get("id2label"), dict):  # a configuration of transformers
        found = found["id2label"]
    if isinstance(found, list):
        return found
    indices = [_index(key) for key in found]
    by_index: dict[int | None, Any] = dict(zip(indices, found.values(), strict=True))
    if by_index.keys() != set(range(len(found))):
        by_index = {_index(value): key for key, value in found.items()}
    if by_index.keys() != set(range(len(found))):
        raise LabelsError(f"{name} maps labels to other indices than 0 to {len(found) - 1}, each once")
    return [by_index[index] for index in range(len(found))]


def _index(said: object) -> int | None:
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    is_number = isinstance(said, str) and said.isascii() and said.isdecimal() and len(said) < 10
    return int(said) if is_number else None  # type: ignore[call-overload]


def _label(item: object, name: str) -> str:
    if isinstance(item, list | tuple) and item:
        item = item[-1]  # of a WordNet identifier and a label
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item)
    if not isinstance(item, str):
        raise LabelsError(f"{name} holds {item!r:.40} where a label should be")
    label = item.strip()
    if len(label.splitlines()) > 1:
        raise LabelsError(f"{name} holds a label of more than a line: {label!r:.40}")
    return label


def _too_many(name: str) -> LabelsError:
    return LabelsError(f"{name} holds more than {MAX_LABELS:,} labels, or {MAX_LABELS_BYTES >> 20} MiB")
