"""torchvision's ImageNet weights: which row has them, what they expect of a picture, where they lie.

Of several sets the classic recipe is taken, ``IMAGENET1K_V1``. torch and torchvision, which take seconds to
import, are imported by what needs them: the command line only asks which rows have weights.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from zoo.spec import InputSpec

if TYPE_CHECKING:
    from torch import Tensor

_IMAGENET = {  # the names of torchvision's enumerations
    "alexnet": "AlexNet_Weights",
    "vgg11": "VGG11_Weights",
    "vgg11_bn": "VGG11_BN_Weights",
    "vgg13": "VGG13_Weights",
    "vgg13_bn": "VGG13_BN_Weights",
    "vgg16": "VGG16_Weights",
    "vgg16_bn": "VGG16_BN_Weights",
    "vgg19": "VGG19_Weights",
    "vgg19_bn": "VGG19_BN_Weights",
    "googlenet": "GoogLeNet_Weights",
    "inception_v3": "Inception_V3_Weights",
    "resnet18": "ResNet18_Weights",
    "resnet34": "ResNet34_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet101": "ResNet101_Weights",
    "resnet152": "ResNet152_Weights",
    "densenet121": "DenseNet121_Weights",
    "densenet161": "DenseNet161_Weights",
    "densenet169": "DenseNet169_Weights",
    "densenet201": "DenseNet201_Weights",
}
# Trained by TensorFlow on the scale -1..1. torchvision normalises with ImageNet's mean and deviation, and
# undoes it inside these networks (transform_input=True); ours have no such step, so it is done here.
_MINUS_ONE_TO_ONE = frozenset(("googlenet", "inception_v3"))

# By the values of torchvision's `InterpolationMode`.
_INTERPOLATIONS: dict[str, Literal["bilinear", "bicubic"]] = {"bilinear": "bilinear", "bicubic": "bicubic"}
_PATIENCE_S = 60.0  # what sends nothing for so long will not send anything
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")
_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")
# Old DenseNet checkpoints name the layers of a block with a dot: norm.1 is norm1 today.
_OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
)


class DownloadError(Exception):
    """Weights could not be fetched, or are not the ones that were published; the message says why."""


@dataclass(frozen=True)
class ImageNetWeights:
    """Weights that torchvision publishes, and what they expect.

    Attributes:
        source: torchvision's name of them.
        url: Where they are published; the file's name holds the first digits of its SHA-256.
        labels: Texts of the labels, in the order of the network's outputs.
        accuracy_ratio: Top-1 on ImageNet's validation images, as torchvision states it.
        input: Size and normalisation that they were trained for.
        resize_shorter_px: What the shorter side is resized to before the centre is cropped.
        interpolation: How pixels are resampled, with antialiasing.
    """

    source: str
    url: str
    labels: tuple[str, ...]
    accuracy_ratio: float
    input: InputSpec
    resize_shorter_px: int
    interpolation: Literal["bilinear", "bicubic"]

    @property
    def file_name(self) -> str:
        """Return the name of the published file."""
        return Path(urlsplit(self.url).path).name

    @property
    def sha256_start(self) -> str:
        """Return the digits of the file's SHA-256 that its name holds.

        Raises:
            DownloadError: it holds none.
        """
        digits = _HASH.search(self.file_name)
        if digits is None:
            raise DownloadError(f"the name of {self.url} holds no hash to check the file against")
        return digits[1]

    def path(self, folder: Path | None = None) -> Path:
        """Return where a download is kept.

        Args:
            folder: Of downloads; the one of ``torch.hub`` when None.
        """
        import torch

        return (Path(torch.hub.get_dir()) / "checkpoints" if folder is None else folder) / self.file_name

    def download(self, folder: Path | None = None, patience_s: float = _PATIENCE_S) -> Path:
        """Fetch the file, unless an earlier download left it here; check its hash either way.

        Args:
            folder: Where downloads are kept; the one of ``torch.hub`` when None.
            patience_s: How long nothing may come.

        Returns:
            The file.

        Raises:
            DownloadError: there is no such address or no network, nothing comes any more, the file is not
                the published one, or the folder cannot be written.
        """
        import torch

        expected = self.sha256_start
        path = self.path(folder)
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                # It writes beside the file, and renames what has the right hash.
                with _connections_end_when_silent_for(patience_s):
                    torch.hub.download_url_to_file(self.url, str(path), expected, progress=False)
                return path
            with path.open("rb") as stream:  # torch.hub trusts what lies there
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except RuntimeError as error:
            raise DownloadError(f"{self.url} is not the file that was published: {error}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DownloadError(
                f"{self.url} cannot be fetched ({error}); where there is no network, put the file at {path}"
            ) from error
        if not found.startswith(expected):
            raise DownloadError(
                f"{path} is not the file that was published: sha256 {found[:12]}…, not {expected}…; remove it"
            )
        return path


@contextmanager
def _connections_end_when_silent_for(patience_s: float) -> Iterator[None]:
    """Limit the silence of connections that are made meanwhile; `torch.hub` would wait for ever."""
    before_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(patience_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before_s)


def has_imagenet(name: str) -> bool:
    """Return whether torchvision publishes ImageNet weights of a row of the catalog."""
    return name in _IMAGENET


def imagenet(name: str) -> ImageNetWeights | None:
    """Find the ImageNet weights of a row of the catalog; None where torchvision has none."""
    if name not in _IMAGENET:
        return None
    from torchvision import models  # type: ignore[import-untyped]

    weights = getattr(models, _IMAGENET[name]).IMAGENET1K_V1
    preset = weights.transforms()
    (side_px,), (resize_shorter_px,) = preset.crop_size, preset.resize_size
    mean, std = tuple(preset.mean), tuple(preset.std)
    if name in _MINUS_ONE_TO_ONE:
        mean = std = (0.5, 0.5, 0.5)
    return ImageNetWeights(
        source=f"torchvision {weights}",
        url=weights.url,
        labels=tuple(weights.meta["categories"]),
        accuracy_ratio=round(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 5),
        input=InputSpec(len(mean), side_px, side_px, mean=mean, std=std),
        resize_shorter_px=resize_shorter_px,
        interpolation=_INTERPOLATIONS[preset.interpolation.value],
    )


def modernised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of torchvision's the names that the catalog's networks have.

    Auxiliary heads, which only help training, are dropped; old names in DenseNets are renewed.
    """
    return {
        modern_name(name): value for name, value in state.items() if not name.startswith(_AUXILIARY_HEADS)
    }


def modern_name(name: str) -> str:
    """Return what today's torchvision calls a tensor, whatever stands before its name."""
    return _OLD_DENSENET.sub(r"\1\2", name)
