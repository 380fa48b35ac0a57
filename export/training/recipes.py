"""How each architecture is trained on each kind of dataset.

The figures for the three small networks were chosen by cross-validation on what is not held out; those
of the others by a few trainings each, judged on validation images.
"""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: at the most.
        patience: epochs without a lower validation loss after which training stops early.
        learning_rate: the peak of a one-cycle schedule.
        weight_decay: of AdamW.
        label_smoothing: share of a label that is spread over all of them while training, 0 to 1.
        max_shift_ratio: largest random shift, as a part of the image's side.
        mirror: whether half of the images are mirrored; for pictures that keep their label so.
        max_gradient_norm: what longer gradients are cut to.
        threads: that torch may use; None for all cores. One for the small networks: handing a layer to a
            second thread takes longer than the layer (measured: 7 s with one, up to 147 s with two on a
            busy machine).
        seed: of the initialisation, the order of the images and their changes.
        starts: trainings from different initialisations, of which the one with the lowest validation
            loss is kept. A network of two thousand parameters is a matter of luck: four starts of
            `two_block_cnn` made 3, 4, 5 and 8 mistakes in 360, in the order of their validation losses
            but for one.
    """

    epochs: int = 60
    patience: int = 20
    batch_size: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    max_shift_ratio: float = 1 / 8
    mirror: bool = False
    max_gradient_norm: float = 5.0
    threads: int | None = 1
    seed: int = 0
    starts: int = 1


# A small network on few images underfits rather than overfits: a high learning rate, little decay.
_SMALL = {
    ("simple_cnn", "digits"): Recipe(),
    ("two_block_cnn", "digits"): Recipe(
        learning_rate=2e-2, weight_decay=1e-3, max_shift_ratio=2 / 28, starts=3
    ),
    ("lenet5", "digits"): Recipe(weight_decay=5e-2, label_smoothing=0.1, max_shift_ratio=2 / 32),
    ("simple_cnn", "mnist"): Recipe(epochs=12, batch_size=64, max_shift_ratio=0),
    ("two_block_cnn", "mnist"): Recipe(
        epochs=12, batch_size=64, learning_rate=1e-2, weight_decay=1e-3, max_shift_ratio=1 / 28
    ),
    ("lenet5", "mnist"): Recipe(
        epochs=12, batch_size=64, learning_rate=3e-3, weight_decay=5e-2, max_shift_ratio=2 / 32
    ),
}

# The others have far more parameters than there are images: smoothed labels, decay, few epochs.
_LARGE = Recipe(
    patience=6,
    weight_decay=5e-2,
    label_smoothing=0.1,
    max_shift_ratio=2 / 32,
    threads=None,
    learning_rate=1e-3,
)
_FAMILIES: dict[str, Recipe] = {
    "alexnet|zfnet": replace(_LARGE, learning_rate=4e-4),
    # Without batch normalisation the gradients of many layers multiply: a low peak, short gradients.
    r"vgg\d+": replace(_LARGE, learning_rate=3e-4, max_gradient_norm=1.0),
    r"vgg\d+_bn": replace(_LARGE, learning_rate=5e-4),
    "googlenet|inception_v3": replace(_LARGE, learning_rate=2e-3),
    r"resnet\d+": _LARGE,
    r"densenet\d+": replace(_LARGE, learning_rate=2e-3),
    "simple_cnn|two_block_cnn|lenet5": Recipe(),
}
_EPOCHS = {  # by architecture and dataset; the first that fits
    # Half a minute and more each on two cores.
    (r"vgg.*|resnet(50|101|152)|densenet161|inception_v3", "digits"): 8,
    (r".*", "digits"): 12,
    (r".*", "mnist"): 3,
    (r".*", r".*"): 30,
}
_BATCH_SIZES = {"mnist": 128}


def find(architecture: str, dataset: str, *, mirror: bool = False) -> Recipe:
    """Choose how to train an architecture on a dataset.

    Args:
        mirror: whether to mirror half of the pictures.

    Raises:
        LookupError: the architecture belongs to no family.
    """
    if (architecture, dataset) in _SMALL:
        return replace(_SMALL[architecture, dataset], mirror=mirror)
    for names, recipe in _FAMILIES.items():
        if re.fullmatch(names, architecture):
            return replace(
                recipe,
                epochs=_epochs(architecture, dataset),
                batch_size=_BATCH_SIZES.get(dataset, recipe.batch_size),
                mirror=mirror,
            )
    raise LookupError(f"there is no recipe for {architecture}")


def _epochs(architecture: str, dataset: str) -> int:
    return next(
        count
        for (architectures, datasets), count in _EPOCHS.items()
        if re.fullmatch(architectures, architecture) and re.fullmatch(datasets, dataset)
    )
