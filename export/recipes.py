"""How each architecture is trained on each dataset; what is not listed cannot be trained yet.

The figures were chosen by cross-validation on what is not held out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        learning_rate: the peak of a one-cycle schedule.
        max_shift_ratio: largest random shift, as a part of the image's side.
        threads: that torch may use. One for networks this small: handing a layer to a second thread
            takes longer than the layer (measured: 7 s with one, up to 147 s with two on a busy machine).
        seed: of the initialisation, the order of the images and their shifts.
        starts: trainings from different initialisations, of which the one with the lowest validation
            loss is kept. A network of two thousand parameters is a matter of luck: four starts of
            `two_block_cnn` made 3, 4, 5 and 8 mistakes in 360, in the order of their validation losses
            but for one.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    max_shift_ratio: float = 1 / 8
    threads: int = 1
    seed: int = 0
    starts: int = 1


# A small network on few images underfits rather than overfits: a high learning rate, little decay.
RECIPES: dict[tuple[str, str], Recipe] = {
    ("simple_cnn", "digits"): Recipe(),
    ("two_block_cnn", "digits"): Recipe(
        epochs=60, learning_rate=2e-2, weight_decay=1e-3, max_shift_ratio=2 / 28, starts=3
    ),
    ("lenet5", "digits"): Recipe(weight_decay=5e-2, label_smoothing=0.1, max_shift_ratio=2 / 32),
}


class UnknownRecipeError(LookupError):
    """Nobody has said how to train this architecture on this dataset; the message says what can be."""


def find(architecture: str, dataset: str) -> Recipe:
    """Find how to train an architecture on a dataset.

    Raises:
        UnknownRecipeError: it is not known.
    """
    if (architecture, dataset) not in RECIPES:
        known = ", ".join(name for name, of in RECIPES if of == dataset) or "nothing"
        raise UnknownRecipeError(f"{architecture} cannot be trained on {dataset!r} here; {known} can")
    return RECIPES[architecture, dataset]


def datasets_for(architecture: str) -> list[str]:
    """List the datasets that an architecture can be trained on."""
    return [dataset for name, dataset in RECIPES if name == architecture]
