"""Weights that were trained elsewhere, in a network of the catalog.

They come from torchvision, from a file, or from chance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from export.data import labels
from export.weights import checkpoint, nearest, preprocessing, recognition
from export.weights.preprocessing import Preprocessing
from export.weights.state_dict import COUNTER, WeightsError, some
from modelzoo.v1 import manifest_pb2
from zoo import weights
from zoo.spec import InputSpec, ModelSpec

__all__ = ["Loaded", "WeightsError", "from_file", "from_imagenet", "random"]

RANDOM = "random"
_CALIBRATION_IMAGES = 4
_NOTHING_GIVEN = Preprocessing()

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
        assumed: a line on the part of the preprocessing that was neither given nor known, where there is one.
    """

    network: nn.Module
    input_spec: InputSpec
    resize_shorter_px: int
    interpolation: manifest_pb2.Interpolation.ValueType
    labels: tuple[str, ...]
    source: str
    sha256: str | None
    accuracy_ratio: float | None
    assumed: tuple[str, ...] = ()

    @property
    def origin(self) -> manifest_pb2.Weights:
        """Describe where the weights come from, for the manifest."""
        is_random = self.source == RANDOM
        return manifest_pb2.Weights(
            origin=manifest_pb2.ORIGIN_RANDOM if is_random else manifest_pb2.ORIGIN_LOADED,
            source=self.source,
            sha256=self.sha256 or "",
            stated_accuracy_ratio=self.accuracy_ratio,
        )


def from_imagenet(
    spec: ModelSpec,
    published: weights.ImageNetWeights | None = None,
    folder: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Load torchvision's ImageNet weights.

    Args:
        published: where they are, and what they expect; torchvision's own of this name when None.
        folder: where downloads are kept; the one of ``torch.hub`` when None.
        note: told what was found in the file, and the preprocessing.

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
    return from_file(path, spec, published=published, folder=folder, note=note)


def from_file(
    path: Path,
    spec: ModelSpec,
    labels_path: Path | None = None,
    given: Preprocessing = _NOTHING_GIVEN,
    published: weights.ImageNetWeights | None = None,
    folder: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Load a state dict from a checkpoint, with one of the suffixes of `checkpoint`.

    What torchvision publishes is recognised, and gets its own normalisation, preprocessing and labels where
    none are given: the very file by its hash; one that was saved anew by its tensors, where torchvision's
    lies in the folder of downloads to compare with.

    Args:
        labels_path: as `labels.read` takes them; without it there are as many as the last layer has outputs,
            and their numbers are their names.
        given: what is known of the preprocessing that the weights were trained for.
        published: what to compare with; torchvision's weights of this name when None.
        folder: where downloads are kept; the one of ``torch.hub`` when None.
        note: told what was found in the file, and the preprocessing with what was assumed of it.

    Raises:
        WeightsError: the file cannot be read or holds something else than this network's weights, the
            labels are not as many as its outputs, or the input is too small for the network.
        PreprocessingError: it has to be chosen, or does not fit the network.
    """
    row = _empty(spec, spec.num_classes, spec.input)
    file = checkpoint.read(path, {name for name in row.state_dict() if not name.endswith(COUNTER)})
    published = published or weights.imagenet(spec.name)
    known = recognition.recognised(file, published, folder)
    texts = _labels(labels_path) if labels_path is not None else known.labels if known else None
    outputs = _outputs(spec, file, row)
    own = _row_input(spec, file, row)
    own = given.sized(own.resized(known.input.height, known.input.width) if known else own)
    network = _filled(_empty(spec, outputs, own), file)
    texts = texts or _numbers(outputs)
    if len(texts) != outputs:
        raise WeightsError(f"{path.name} has {outputs} outputs, but there are {len(texts)} labels")
    settled = preprocessing.settle(spec, own, given, known, path.name)
    as_published = known is not None and given == _NOTHING_GIVEN
    assumed = f"preprocessing assumed, not given with the weights: {settled.assumed}"
    total = len(file.found.tensors)
    heads = "; the others are of auxiliary heads, which only help training" if total > len(file.state) else ""
    note(f"{path.name}: {file.found}, {len(file.state)} of {total} tensors match {spec.name}{heads}")
    note(f"{path.name}: {settled.summary}")
    if known is None and published is not None and outputs == len(published.labels):
        note(f"{path.name}: {recognition.unknown(published)}")
    return Loaded(
        network=network,
        input_spec=settled.input_spec,
        resize_shorter_px=settled.resize_shorter_px,
        interpolation=_INTERPOLATIONS[settled.interpolation],
        labels=texts,
        source=known.source if known else path.name,
        sha256=file.sha256,
        accuracy_ratio=known.accuracy_ratio if known and as_published else None,
        assumed=(assumed,) if settled.assumed else (),
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


def _row_input(spec: ModelSpec, file: checkpoint.Checkpoint, row: nn.Module) -> InputSpec:
    """Return the row's input, of grey pictures where the first convolution takes such."""
    first = next(name for name, part in row.named_modules() if isinstance(part, nn.Conv2d))
    kernels = file.state.get(f"{first}.weight")  # [maps, C, height, width]
    is_grey = kernels is not None and kernels.dim() == 4 and kernels.shape[1] == 1
    return spec.input_for(1, max(spec.input.height, spec.input.width)) if is_grey else spec.input


def _outputs(spec: ModelSpec, file: checkpoint.Checkpoint, row: nn.Module) -> int:
    """Count the outputs of the last layer; those of the row where the weights are of another network."""
    last = [name for name, part in row.named_modules() if isinstance(part, nn.Linear)][-1]
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
    """Give an empty network its weights, in float32.

    Raises:
        WeightsError: names or shapes are not the network's, or a number is none.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in file.state and not name.endswith(COUNTER)]
    strays = [name for name in file.state if name not in wanted]
    said = [f"{how} {some(names)}" for how, names in (("lacks", missing), ("has also", strays)) if names]
    said += [
        f"has {name} of {_shape(file.state[name])}, not {_shape(empty)}"
        for name, empty in wanted.items()
        if not said
        and name in file.state
        and not name.endswith(COUNTER)
        and file.state[name].shape != empty.shape
    ][:1]
    if said:
        other = f"{file.file_name} holds another network: it {' and '.join(said)}"
        raise WeightsError(f"{other}; {nearest.described(file.state)}")
    filled = {}
    for name, empty in wanted.items():
        value = None if name.endswith(COUNTER) else file.state.get(name)
        if value is None:  # of a counter, which may be missing
            value = torch.zeros(empty.shape, dtype=empty.dtype)
        if value.is_floating_point() != empty.is_floating_point():
            raise WeightsError(f"{file.file_name}: {name} is {value.dtype}, not {empty.dtype}")
        filled[name] = value.to(empty.dtype).contiguous()
        if not filled[name].isfinite().all():
            raise WeightsError(f"{file.file_name}: {name} holds a number that is infinite or none")
        if name.endswith("running_var") and filled[name].min() < 0:
            raise WeightsError(f"{file.file_name}: {name} is a variance, and holds a number below zero")
    network.load_state_dict(filled, assign=True)
    return network.eval()


def _shape(value: Tensor) -> str:
    return "x".join(str(side) for side in value.shape) or "one number"
