"""Whether pictures are transparent: what shows through them is then part of what is learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from export.data.reading import spread

_LOOKED_AT = 100  # pictures with headers that stand for the others
WHITE = "#ffffff"  # what icons, logos and cut-outs are drawn for


@dataclass(frozen=True)
class Ground:
    """What transparent pictures are put on.

    Attributes:
        background: ``#rrggbb``; empty where transparency is dropped.
        notes: what was decided without having been asked, one sentence each.
    """

    background: str
    notes: tuple[str, ...] = ()


def ground(paths: Sequence[Path]) -> Ground:
    """Choose a background: white where most of some pictures have an alpha channel, by their headers."""
    chosen = spread(paths, _LOOKED_AT)
    count = sum(map(_has_alpha, chosen))
    if not count:
        return Ground("")
    found = f"warning: {count} of {len(chosen)} pictures looked at have transparent parts"
    if 2 * count > len(chosen):
        return Ground(WHITE, (f"{found}: put on white, here and in the server; --background names a colour",))
    return Ground("", (f"{found}: the colours beneath show; --background composites them on a colour",))


def _has_alpha(path: Path) -> bool:
    """Return whether a file's header says so; of a damaged one the loader will tell."""
    try:
        with Image.open(path) as image:
            return image.has_transparency_data
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
