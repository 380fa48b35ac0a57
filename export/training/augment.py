"""Changes of a training picture that leave its label what it is; drawn anew every epoch."""

import re
from collections.abc import Sequence

import torch
from torch.nn import functional

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of `turn_left`, `TurnLeft`, `TURN LEFT 2`
_SIDED_WORD = re.compile(
    "(left|right).*|(anti|counter)?clockwise|(text|sign|arrow|letter|digit|number|numeral|character)s?"
)
_SIDED_LABEL = re.compile(r"[0-9]+|zero|one|two|three|four|five|six|seven|eight|nine|ten", re.IGNORECASE)


def augment(
    images: torch.Tensor, max_shift_ratio: float, generator: torch.Generator, *, mirror: bool
) -> torch.Tensor:
    """Shift every image, uint8 ``[N, H, W, C]``, and mirror half of them where that is allowed.

    Args:
        max_shift_ratio: largest shift, as a part of the image's shorter side.
        generator: of every random number.
    """
    shifted = _shifted(images, max_shift_ratio, generator)
    if not mirror:
        return shifted
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    shifted[mirrored] = shifted[mirrored].flip(dims=(2,))
    return shifted


def max_shift_px(max_shift_ratio: float, height: int, width: int) -> int:
    """Return the largest shift of images of a size, in pixels."""
    return round(max_shift_ratio * min(height, width))


def sided_label(labels: Sequence[str]) -> str | None:
    """Return the first label that suggests that a mirrored picture has another label, or none.

    A label does if it is a number, the English name of one up to ten, or a single letter of any script; or
    if one of its words begins with left or right, is clockwise, anticlockwise or counterclockwise, or is
    text, sign, arrow, letter, digit, number, numeral or character, or a plural of these. Case does not
    matter but where it separates words, as in ``TurnLeft``. In doubt pictures are not mirrored: a right whale
    has no side.

    Returns:
        The label; None where no label does.
    """
    return next((label for label in labels if _is_sided(label)), None)


def _is_sided(label: str) -> bool:
    if _SIDED_LABEL.fullmatch(label) or (len(label) == 1 and label.isalpha()):
        return True
    return any(_SIDED_WORD.fullmatch(word.lower()) for word in _WORD.findall(label))


def _shifted(images: torch.Tensor, max_shift_ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Shift by a random whole number of pixels; what comes in from outside is 0 (black)."""
    count, height, width, _ = images.shape
    shift_px = max_shift_px(max_shift_ratio, height, width)
    padded = functional.pad(images, (0, 0, shift_px, shift_px, shift_px, shift_px))
    top = torch.randint(0, 2 * shift_px + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * shift_px + 1, (count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # [N, H], [N, W]
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
