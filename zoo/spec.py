"""What the zoo says about a network: its paper, its input, how to build it.

The files of the architectures write these rows; ``catalog`` lists them. Training, export and the
command line read every shape, mean, count and name from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Means and deviations of ImageNet's training pixels, as torchvision and its weights use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SMALL_PICTURE_PX = 96  # MNIST has 28, CIFAR 32, STL 96; what is larger gets the paper's size


@dataclass(frozen=True)
class Paper:
    """Where a network was first described.

    Attributes:
        title: The paper's, in full.
        authors: Family names, in the paper's order.
        year: Of the first public version (arXiv's where there is one), not of the proceedings.
        link: DOI or arXiv page.
    """

    title: str
    authors: str
    year: int
    link: str


@dataclass(frozen=True)
class InputSpec:
    """The pictures a network takes: their size, and how pixels become its numbers.

    A pixel ``p`` on the scale 0..1 enters the network as ``(p - mean) / std``, channel by channel.

    Attributes:
        channels: C: 1 for grey, 3 for red, green, blue in this order.
        height: H, in pixels.
        width: W, in pixels.
        mean: One number a channel, on the scale 0..1.
        std: One number a channel, on the scale 0..1, above zero.

    Raises:
        ValueError: a size below 1, ``mean`` or ``std`` not one a channel, or a ``std`` not above zero.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise ValueError(
                f"an input of {self.channels}x{self.height}x{self.width} (channels, height, width) is empty"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers for {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above zero, not {self.std}")

    def resized(self, height: int, width: int) -> InputSpec:
        """Return the same input at another size.

        Args:
            height: H, in pixels.
            width: W, in pixels.

        Returns:
            A copy with this height and width; channels, mean and std stay.

        Raises:
            ValueError: a size below 1.
        """
        return replace(self, height=height, width=width)

    def require_at_least(self, side_px: int, architecture: str) -> None:
        """Refuse an input too small for an architecture.

        Args:
            side_px: The smallest height and width at which every map has a pixel.
            architecture: Its name, for the message.

        Raises:
            ValueError: the height or the width is below ``side_px``.
        """
        if min(self.height, self.width) < side_px:
            raise ValueError(
                f"{architecture} needs at least {side_px}x{side_px} pixels, not {self.height}x{self.width}"
            )


@dataclass(frozen=True)
class ModelSpec:
    """One row of the catalog: an architecture, and what is true of it.

    Attributes:
        name: Lower case; unique in the catalog.
        small_px: Side of the input for pictures of some tens of pixels, which at the paper's size would
            only cost time.
        build: Makes the network from the number of labels and an input. The network takes normalised
            float32 ``[N, C, H, W]`` and gives logits, float32 ``[N, K]``, before softmax.
        paper: that describes it; None for a notebook exercise, for which there was no paper.
        input: The paper's, or the exercise's, own input.
        num_classes: The paper's, or the exercise's, own number of labels, K.
        parameters: Trainable numbers at ``num_classes`` and ``input``; a test counts them.
        deviations: What differs from the paper (or the exercise), one sentence each.
    """

    name: str
    build: Callable[[int, InputSpec], nn.Module]
    paper: Paper | None
    input: InputSpec
    num_classes: int
    parameters: int
    deviations: tuple[str, ...]
    small_px: int

    def input_for(self, channels: int, side_px: int) -> InputSpec:
        """Choose the input for pictures of a dataset.

        Args:
            channels: The pictures', 1 or 3; a network for grey pictures stays one.
            side_px: Their typical shorter side.

        Returns:
            The row's own size or, for small pictures, the small one. Means and deviations are the row's;
            where the pictures are grey and it has three of each, their averages.
        """
        own = self.input
        if side_px <= _SMALL_PICTURE_PX:
            own = own.resized(self.small_px, self.small_px)
        if channels >= own.channels:
            return own
        mean, std = (round(sum(values) / len(values), 4) for values in (own.mean, own.std))
        return replace(own, channels=channels, mean=(mean,) * channels, std=(std,) * channels)

    def network(
        self,
        num_classes: int | None = None,
        input: InputSpec | None = None,  # noqa: A002 (the field's own name)
    ) -> nn.Module:
        """Build the network, freshly initialised from torch's random state.

        Args:
            num_classes: K; the row's own when None.
            input: Size and channels; the row's own when None.

        Returns:
            A network in training mode: normalised float32 ``[N, C, H, W]`` to logits ``[N, K]``.

        Raises:
            ValueError: ``num_classes`` is below 1, or ``input`` is too small for the architecture.
        """
        labels = self.num_classes if num_classes is None else num_classes
        if labels < 1:
            raise ValueError(f"{self.name} needs at least one label, not {labels}")
        return self.build(labels, self.input if input is None else input)
