"""LeNet-5, the digit reader of 1998.

``catalog`` lists its row; ``export`` trains it on digits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.spec import InputSpec

_SMALLEST_PX = 32  # one pixel in C5


class LeNet5(nn.Module):
    """LeNet-5 with the paper's layer names.

    Args:
        num_classes: K.
        input_spec: Size and channels; at 32x32, the paper's, C5 is one pixel.

    Raises:
        ValueError: the input is below 32x32.

    Reference:
        LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
        Proceedings of the IEEE 1998, https://doi.org/10.1109/5.726791, section II-B and figure 2.

    Deviations:
        As listed in the catalog.
    """

    def __init__(self, num_classes: int, input_spec: InputSpec) -> None:
        super().__init__()
        input_spec.require_at_least(_SMALLEST_PX, "lenet5")
        height, width = (((side - 4) // 2 - 4) // 2 - 4 for side in (input_spec.height, input_spec.width))
        self.c1 = nn.Conv2d(input_spec.channels, 6, kernel_size=5)
        self.s2 = nn.MaxPool2d(kernel_size=2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.s4 = nn.MaxPool2d(kernel_size=2)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120 * height * width, 84)
        self.output = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            x: Normalised float32 ``[N, C, H, W]``.

        Returns:
            Logits, float32 ``[N, K]``.
        """
        x = self.s2(torch.tanh(self.c1(x)))  # [N, 6, 14, 14] at 32x32
        x = self.s4(torch.tanh(self.c3(x)))  # [N, 16, 5, 5]
        x = torch.tanh(self.c5(x)).flatten(1)  # [N, 120]
        x = torch.tanh(self.f6(x))  # [N, 84]
        logits: Tensor = self.output(x)  # [N, K]
        return logits
