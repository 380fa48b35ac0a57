"""What the load generator's tests share: loads of real digits."""

from collections.abc import Callable

import pytest

from artifact.golden import Golden
from bench.load.load import Load
from bench.load.protocols import Classify

NAME = "simple_cnn-digits"

MakeLoad = Callable[..., Load]


@pytest.fixture
def make_load(digits: Golden) -> MakeLoad:
    """Make a load of the digits with their right labels; its fields by name."""
    labels = [{int(label)} for label in digits.probabilities.argmax(axis=1)]

    def make(model: str = NAME, **options: object) -> Load:
        usual = {"protocol": Classify(model), "pictures": list(digits.images), "labels": labels}
        return Load(**(usual | options))

    return make
