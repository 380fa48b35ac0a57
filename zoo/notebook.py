"""Two small convolutional networks, as notebooks teach them.

There was no paper: their rows have ``paper=None``. ``catalog`` lists them; ``export`` trains them on digits.
"""

from __future__ import annotations

from torch import nn

from zoo.spec import InputSpec

_SMALLEST_PX = 4  # both: one pixel after the last pooling


def simple_cnn(num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build the Keras exercise: one convolution, two dense layers.

    Args:
        num_classes: K.
        input_spec: Size and channels; the exercise has 1x8x8.

    Returns:
        Normalised float32 ``[N, C, H, W]`` to logits, float32 ``[N, K]``.

    Raises:
        ValueError: the input is below 4x4.

    Deviations:
        As listed in the catalog.
    """
    input_spec.require_at_least(_SMALLEST_PX, "simple_cnn")
    height, width = ((side - 2) // 2 for side in (input_spec.height, input_spec.width))
    return nn.Sequential(
        nn.Conv2d(input_spec.channels, 64, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2),  # [N, 64, 3, 3] at 8x8
        nn.Flatten(),
        nn.Linear(64 * height * width, 50),
        nn.ReLU(inplace=True),
        nn.Linear(50, num_classes),  # [N, K]
    )


def two_block_cnn(num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build the PyTorch exercise: twice convolution, batch normalisation, pooling; one linear layer.

    Args:
        num_classes: K.
        input_spec: Size and channels; the exercise has 1x28x28.

    Returns:
        Normalised float32 ``[N, C, H, W]`` to logits, float32 ``[N, K]``.

    Raises:
        ValueError: the input is below 4x4.

    Deviations:
        As listed in the catalog.
    """
    input_spec.require_at_least(_SMALLEST_PX, "two_block_cnn")
    height, width = (side // 2 // 2 for side in (input_spec.height, input_spec.width))
    return nn.Sequential(
        nn.Conv2d(input_spec.channels, 4, kernel_size=3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2),  # [N, 4, 14, 14] at 28x28
        nn.Conv2d(4, 4, kernel_size=3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2),  # [N, 4, 7, 7]
        nn.Flatten(),
        nn.Linear(4 * height * width, num_classes),  # [N, K]
    )
