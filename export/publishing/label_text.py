"""Labels as a card shows them: in a figure, of bounded width and in the font's glyphs; in a page, as text.

A label that a figure cannot show in full is drawn with its index, ``#7``, and the page says which that is.
"""

import functools
import re
from collections.abc import Iterable, Sequence

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from export.errors import one_line

_MAX_WIDTH_EM = 11  # of a label in a figure: some 20 letters
_MAX_CHARACTERS = 50  # that could fit: the narrowest have a quarter of an em
_MEASURED_PT = 10  # text is laid out in hundredths of a point
_MARKUP = re.compile(r"[\\`*_\[\]<>&|~$]")  # what Markdown, GitHub's tables, mathematics and HTML are made of


def drawn(labels: Sequence[str], index: int) -> str:
    """Return what a figure shows of a label: itself, its index and its beginning, or its index alone.

    Labels of the same beginning differ by their index; a label without a glyph for each of its characters
    would be drawn as boxes.
    """
    label = labels[index]
    if not label.strip() or any(ord(character) not in _glyphs() for character in label):
        return f"#{index}"
    if len(label) <= _MAX_CHARACTERS and _width_em(label) <= _MAX_WIDTH_EM:
        return label
    length = min(len(label), _MAX_CHARACTERS)
    while _width_em(shortened := f"#{index} {label[:length].rstrip()}…") > _MAX_WIDTH_EM:
        length -= 1
    return shortened


def undrawn(labels: Sequence[str], indices: Iterable[int]) -> list[int]:
    """Return those of some labels that figures do not show in full, in order, as indices."""
    return [index for index in sorted(set(indices)) if drawn(labels, index) != labels[index]]


def width_pt(text: str, size_pt: float) -> float:
    """Return the width of a drawn text, in points."""
    return _width_em(text) * size_pt


def markdown(text: str) -> str:
    """Escape a text for a line of Markdown, a table's cell for one: it shows as it is, and is no markup."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


@functools.cache
def _glyphs() -> frozenset[int]:
    """Return the code points that matplotlib's default font can draw."""
    return frozenset(font_manager.get_font(font_manager.findfont(FontProperties())).get_charmap())


def _width_em(text: str) -> float:
    properties = FontProperties(size=_MEASURED_PT)
    width, _, _ = text_to_path.get_text_width_height_descent(text, properties, ismath=False)
    return float(width) / _MEASURED_PT
