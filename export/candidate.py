"""What is to become an artifact, what is known of it before any proof, and what watches its way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from export.data.datasets import Split
from export.graph.verification import Images, Probabilities
from export.training.train import Training, Watcher
from modelzoo.v1 import manifest_pb2
from zoo.spec import InputSpec


@dataclass(frozen=True)
class Candidate:
    """A network that may be published if it proves itself.

    Attributes:
        description: the manifest as far as it is known: name, architecture, paper, deviations, parameters,
            input, preprocessing, weights, reference.
        labels: K texts, in the order of the network's outputs.
        write: writes the fp32 graph.
        answer: gives the reference's probabilities, float32 ``[N, K]``, for uint8 ``[N, H, W, C]``.
        held_out: labelled pictures that neither training nor any choice has seen.
        held_out_name: what they are, in words for the manifest.
        chosen_on: labelled pictures on which choices are made, the calibration's method for one.
        pictures: what int8 is calibrated on, uint8 ``[N, H, W, C]``.
        training: how the weights came to be, where they were trained here.
    """

    description: manifest_pb2.Manifest
    labels: Sequence[str]
    write: Callable[[Path], object]
    answer: Callable[[Images], Probabilities]
    held_out: Split | None = None
    held_out_name: str = ""
    chosen_on: Split | None = None
    pictures: Images | None = None
    training: Training | None = None


@dataclass(frozen=True)
class ReleaseOptions:
    """What to publish of a candidate.

    Attributes:
        repository: the model repository.
        precisions: `fp32` is always among what is published; the others if they pass their gates.
        ungated: publish them whatever the gates say.
    """

    repository: Path
    precisions: Sequence[str] = field(default=("fp32",))
    ungated: bool = False


class Observer(Watcher, Protocol):
    """Reports how far an export has come."""

    def step(self, what: str) -> None:
        """Take note that the next step began."""

    def note(self, text: str) -> None:
        """Take note of what should be known of the artifact; it is not shown for a moment only."""


def input_of(
    spec: InputSpec, background: str = "", *, scaled_decoding: bool
) -> tuple[manifest_pb2.Input, manifest_pb2.Preprocessing]:
    """Describe a network's input; a picture is resized to fill it, nothing more."""
    return (
        manifest_pb2.Input(
            height=spec.height, width=spec.width, channels=spec.channels, mean=spec.mean, std=spec.std
        ),
        manifest_pb2.Preprocessing(
            resize_shorter_px=max(spec.height, spec.width),
            interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
            scaled_decoding=scaled_decoding,
            background=background,
        ),
    )
