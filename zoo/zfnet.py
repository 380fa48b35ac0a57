"""ZFNet, AlexNet's first layers redrawn after looking into them, with local response normalisation.

``catalog`` lists its row; ``export`` trains it, and turns its normalisation into ONNX's own ``LRN``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.spec import InputSpec

_SMALLEST_PX = 63  # one pixel after the last pooling


class LocalResponseNorm(nn.Module):
    """Each value divided by the energy of the neighbouring maps at its place.

    ``y = x / (k + alpha / size * sum of x^2 over size maps) ** beta``. PyTorch and ONNX divide ``alpha``
    by ``size``; Krizhevsky et al. 2012 do not, so their ``alpha`` of 1e-4 with ``n = 5`` is 5e-4 here.
    PyTorch's own module exports as nine nodes; this one as a single ``LRN``.

    Args:
        size: Maps summed, the value's own in the middle; odd, because the two libraries disagree
            about the middle of an even number.
        alpha: Weight of the mean square.
        beta: Exponent.
        k: Added to the mean square, so that silence is not divided by zero.

    Raises:
        ValueError: ``size`` is not odd.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"local response normalisation needs an odd number of maps, not {size}")
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Normalise across maps.

        Args:
            x: Float ``[N, C, H, W]``.

        Returns:
            The same shape and type.
        """
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                "LRN",
                (x,),
                attrs={"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.k},
                dtype=x.dtype,
                shape=x.shape,
                version=13,  # LRN's latest, from opset 13 on
            )
        return functional.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Name the constants when the network is printed."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _local_response_norm() -> LocalResponseNorm:
    """Make the layer with the constants of Krizhevsky et al. 2012, section 3.3."""
    return LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)


class ZFNet(nn.Module):
    """ZFNet: five convolutions and three dense layers.

    Args:
        num_classes: K.
        input_spec: Size and channels; the first dense layer fits the last map.

    Raises:
        ValueError: the input is below 63x63.

    Reference:
        Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", 2013,
        https://arxiv.org/abs/1311.2901, section 3 and figure 3.

    Deviations:
        As listed in the catalog.
    """

    def __init__(self, num_classes: int, input_spec: InputSpec) -> None:
        super().__init__()
        input_spec.require_at_least(_SMALLEST_PX, "zfnet")
        # Padding 1 and the pools' ceil mode give the paper's maps: 110, 55, 26, 13, 6 from 224.
        self.features = nn.Sequential(
            nn.Conv2d(
                input_spec.channels, 96, kernel_size=7, stride=2, padding=1
            ),  # [N, 96, 110, 110] at 224
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),  # [N, 96, 55, 55]
            _local_response_norm(),
            nn.Conv2d(96, 256, kernel_size=5, stride=2),  # [N, 256, 26, 26]
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),  # [N, 256, 13, 13]
            _local_response_norm(),
            nn.Conv2d(256, 384, kernel_size=3, padding=1),  # [N, 384, 13, 13]
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),  # [N, 256, 13, 13]
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [N, 256, 6, 6]
        )
        height, width = (_last_map(side) for side in (input_spec.height, input_spec.width))
        self.classifier = nn.Sequential(
            nn.Linear(256 * height * width, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            x: Normalised float32 ``[N, C, H, W]``.

        Returns:
            Logits, float32 ``[N, K]``.
        """
        logits: Tensor = self.classifier(self.features(x).flatten(1))  # [N, K]
        return logits


def _last_map(side_px: int) -> int:
    """Follow one side through the layers: 224 becomes 6."""
    conv1 = (side_px + 2 - 7) // 2 + 1
    pool1 = conv1 // 2  # 3x3, stride 2, rounded up
    conv2 = (pool1 - 5) // 2 + 1
    pool2 = conv2 // 2
    return (pool2 - 3) // 2 + 1
