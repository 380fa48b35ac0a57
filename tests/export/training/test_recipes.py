"""Whatever is in the catalog can be trained on anything."""

import pytest

from export.training import recipes
from zoo import catalog

NAMES = [spec.name for spec in catalog.CATALOG]


@pytest.mark.parametrize("dataset", ["digits", "mnist", "pets"])
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_has_a_recipe_for_every_dataset(name: str, dataset: str) -> None:
    recipe = recipes.find(name, dataset)
    assert recipe.epochs >= 3
    assert 0 < recipe.learning_rate < 0.1
    assert recipe.patience > 0


def test_a_stranger_has_no_recipe() -> None:
    with pytest.raises(LookupError, match="there is no recipe for lenet6"):
        recipes.find("lenet6", "digits")


@pytest.mark.parametrize("dataset", ["digits", "pets"])
@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_pictures_are_mirrored_where_that_is_asked_for(name: str, dataset: str) -> None:
    assert recipes.find(name, dataset, mirror=True).mirror
    assert not recipes.find(name, dataset).mirror
