"""Weights that were trained elsewhere, in a network of the catalog.

They come from torchvision, from a file, or from chance.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from export.data import labels
from export.weights import checkpoint
from export.weights.checkpoint import WeightsError, some
from modelzoo.v1 import manifest_pb2
from zoo import weights
from zoo.spec import InputSpec, ModelSpec

__all__ = ["Loaded", "WeightsError", "from_file", "from_imagenet", "random"]

RANDOM = "random"
_COUNTER = "num_batches_tracked"  # matters in training only; checkpoints older than 2018 lack it
_CALIBRATION_IMAGES = 4

_INTERPOLATIONS: dict[str, manifest_pb2.Interpolation.ValueType] = {
    "bilinear": manifest_pb2.INTERPOLATION_BILINEAR,
    "bicubic": manifest_pb2.INTERPOLATION_BICUBIC,
}


@dataclass(frozen=True)
class Loaded:
    """A network with weights, and what is known of them.

    Attributes:
        network: in evaluation mode: normalised float32 ``[N, C, H, W]`` to logits ``[N, K]``.
        input_spec: what it is to be served with.
        labels: K texts; the numbers from 0 where none were given.
        source: where the weights come from, in words.
        sha256: of the file they were in; None where there was none.
        accuracy_ratio: top-1 as the source states it, not as measured here; None where it says nothing.
    """

    network: nn.Module
    input_spec: InputSpec
    resize_shorter_px: int
    interpolation: manifest_pb2.Interpolation.ValueType
    labels: tuple[str, ...]
    source: str
    sha256: str | None
    accuracy_ratio: float | None


def from_imagenet(
    spec: ModelSpec, published: weights.ImageNetWeights | None = None, folder: Path | None = None
) -> Loaded:
    """Load torchvision's ImageNet weights.

    Args:
        published: where they are, and what they expect; torchvision's own of this name when None.
        folder: where downloads are kept; the one of ``torch.hub`` when None.

    Raises:
        WeightsError: torchvision has none for this network, they cannot be fetched, or the file holds
            something else.
    """
    published = published or weights.imagenet(spec.name)
    if published is None:
        raise WeightsError(f"torchvision has no ImageNet weights for {spec.name}")
    try:
        path = published.download(folder)
    except weights.DownloadError as error:
        raise WeightsError(str(error)) from error
    return from_file(path, spec, published=published)


def from_file(
    path: Path,
    spec: ModelSpec,
    labels_path: Path | None = None,
    input_spec: InputSpec | None = None,
    resize_shorter_px: int | None = None,
    published: weights.ImageNetWeights | None = None,
) -> Loaded:
    """Load a state dict from a ``.pt``, ``.pth`` or ``.safetensors`` file.

    The very file that torchvision publishes is recognised by its hash, and gets its own normalisation,
    preprocessing and labels where none are given: with another normalisation the answers would be
    wrong, and nothing would show it.

    Args:
        labels_path: one label a line; without it there are as many as the last layer has outputs, and
            their numbers are their names.
        input_spec: what the weights were trained for; the row's own when None.
        resize_shorter_px: what a picture's shorter side is resized to before the centre is cropped; the
            input's longer side when None.
        published: what to compare the hash with; torchvision's weights of this name when None.

    Raises:
        WeightsError: the file cannot be read or holds something else than this network's weights, the
            labels are not as many as its outputs, or the input is too small for the network.
    """
    file = checkpoint.read(path)
    known = published or weights.imagenet(spec.name)
    if known is not None and not file.sha256.startswith(known.sha256_start):
        known = None
    as_published = known if input_spec is None and resize_shorter_px is None else None
    pixels = input_spec or (known.input if known else spec.input)
    outputs = _outputs(spec, file)
    texts = known.labels if known else _numbers(outputs)
    if labels_path is not None:
        texts = _labels(labels_path)
    if len(texts) != outputs:
        raise WeightsError(f"{path.name} has {outputs} outputs, but there are {len(texts)} labels")
    network = _filled(_empty(spec, outputs, pixels), file)
    if as_published is not None:
        resize_shorter_px = as_published.resize_shorter_px
    return Loaded(
        network=network,
        input_spec=pixels,
        resize_shorter_px=resize_shorter_px or max(pixels.height, pixels.width),
        interpolation=_INTERPOLATIONS[as_published.interpolation if as_published else "bilinear"],
        labels=texts,
        source=known.source if known else path.name,
        sha256=file.sha256,
        accuracy_ratio=as_published.accuracy_ratio if as_published else None,
    )


def random(spec: ModelSpec, seed: int) -> Loaded:
    """Draw the weights, which is enough to measure how fast a network is.

    Batch normalisation is given the statistics of a few pictures of noise: with the ones it starts from,
    the numbers of a deep network grow until nothing can be compared: ResNet-152's logits to 20 million.

    Args:
        seed: of weights and noise; torch's own random state is left as it was.
    """
    pixels = spec.input
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = spec.network()
        norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the statistics of all that is seen, not a moving average
        if norms:
            noise = torch.rand(_CALIBRATION_IMAGES, pixels.channels, pixels.height, pixels.width)
            mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (pixels.mean, pixels.std))
            network((noise - mean) / std)
    return Loaded(
        network=network.eval(),
        input_spec=pixels,
        resize_shorter_px=max(pixels.height, pixels.width),
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        labels=_numbers(spec.num_classes),
        source=RANDOM,
        sha256=None,
        accuracy_ratio=None,
    )


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(index) for index in range(count))


def _labels(path: Path) -> tuple[str, ...]:
    try:
        return labels.read(path)
    except labels.LabelsError as error:
        raise WeightsError(str(error)) from error


def _outputs(spec: ModelSpec, file: checkpoint.Checkpoint) -> int:
    """Count the outputs of the last layer; those of the row where the weights are of another network."""
    network = _empty(spec, spec.num_classes, spec.input)
    last = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)][-1]
    bias = file.state.get(f"{last}.bias")
    if bias is None or bias.dim() != 1:
        return spec.num_classes
    if len(bias) < 2:
        raise WeightsError(f"{file.file_name} has {len(bias)} outputs; a classifier needs two or more")
    return len(bias)


def _empty(spec: ModelSpec, outputs: int, pixels: InputSpec) -> nn.Module:
    """Build a network without weights, which takes no time and no memory.

    Raises:
        WeightsError: the input is too small for it.
    """
    try:
        with torch.device("meta"):
            return spec.network(outputs, pixels)
    except ValueError as error:
        raise WeightsError(str(error)) from error


def _filled(network: nn.Module, file: checkpoint.Checkpoint) -> nn.Module:
    """Return an empty network its weights, in float32.

    Raises:
        WeightsError: names or shapes are not the network's, or a number is none.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in file.state and not name.endswith(_COUNTER)]
    strays = [name for name in file.state if name not in wanted]
    said = [f"{how} {some(names)}" for how, names in (("lacks", missing), ("has also", strays)) if names]
    if said:
        raise WeightsError(f"{file.file_name} holds another network: it {' and '.join(said)}")
    filled = {}
    for name, empty in wanted.items():
        value = file.state.get(name, torch.zeros(empty.shape, dtype=empty.dtype))
        if value.shape != empty.shape:
            raise WeightsError(
                f"{file.file_name} holds another network: {name} is {_shape(value)}, not {_shape(empty)}"
            )
        if value.is_floating_point() != empty.is_floating_point():
            raise WeightsError(f"{file.file_name}: {name} is {value.dtype}, not {empty.dtype}")
        filled[name] = value.to(empty.dtype).contiguous()
        if not filled[name].isfinite().all():
            raise WeightsError(f"{file.file_name}: {name} holds a number that is infinite or none")
    network.load_state_dict(filled, assign=True)
    return network.eval()


def _shape(value: Tensor) -> str:
    return "x".join(str(side) for side in value.shape) or "one number"
