"""Whether pictures are transparent: what shows through them is then part of what is learnt."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from export.data.reading import spread

_LOOKED_AT = 100  # pictures that stand for the others
_OPAQUE = 255
WHITE = "#ffffff"  # what icons, logos and cut-outs are drawn for


def ground(paths: Sequence[Path], note: Callable[[str], None] = lambda _: None) -> str:
    """Choose a background: white where most of some pictures have transparent pixels.

    Args:
        note: told what was decided, where any is transparent.

    Returns:
        It as ``#rrggbb``; empty where transparency is dropped.
    """
    chosen = spread(paths, _LOOKED_AT)
    count = sum(map(_is_transparent, chosen))
    if not count:
        return ""
    found = f"warning: {count} of {len(chosen)} pictures looked at have transparent parts"
    if 2 * count > len(chosen):
        note(f"{found}: put on white, here and in the server; --background names a colour")
        return WHITE
    note(f"{found}: the colours beneath show; --background composites them on a colour")
    return ""


def _is_transparent(path: Path) -> bool:
    """Return whether a picture has transparent pixels; of a damaged one the loader will tell."""
    try:
        with Image.open(path) as image:
            if not image.has_transparency_data:
                return False
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))  # [H, W]
            return bool(alpha.min() < _OPAQUE)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
