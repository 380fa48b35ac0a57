"""Changes of a training picture that leave its label what it is; drawn anew every epoch."""

import torch
from torch.nn import functional


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


def _shifted(images: torch.Tensor, max_shift_ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Shift by a random whole number of pixels; what comes in from outside is 0 (black)."""
    count, height, width, _ = images.shape
    shift_px = round(max_shift_ratio * min(height, width))
    padded = functional.pad(images, (0, 0, shift_px, shift_px, shift_px, shift_px))
    top = torch.randint(0, 2 * shift_px + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * shift_px + 1, (count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # [N, H], [N, W]
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
