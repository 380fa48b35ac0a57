"""Whatever is in the catalog can be trained on anything."""

import pytest

from export.training import recipes
from zoo import catalog

NAMES = [spec.name for spec in catalog.CATALOG]
SMALL = ("lenet5", "simple_cnn", "two_block_cnn")


@pytest.mark.parametrize("dataset", ["digits", "mnist", "pets"])
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_has_a_recipe_for_every_dataset(name: str, dataset: str) -> None:
    recipe = recipes.find(name, dataset)
    assert recipe.epochs >= 3
    assert 0 < recipe.learning_rate < 0.1
    assert (recipe.threads == 1) == (name in SMALL)


def test_a_stranger_has_no_recipe() -> None:
    with pytest.raises(LookupError, match="there is no recipe for lenet6"):
        recipes.find("lenet6", "digits")


def test_pictures_are_mirrored_where_the_dataset_allows_it() -> None:
    assert recipes.find("resnet18", "pets", mirror=True).mirror
    assert not recipes.find("resnet18", "mnist").mirror


def test_networks_without_batch_normalisation_take_short_steps() -> None:
    plain, normalised = recipes.find("vgg16", "digits"), recipes.find("vgg16_bn", "digits")
    assert plain.learning_rate < normalised.learning_rate
    assert plain.max_gradient_norm < normalised.max_gradient_norm


def test_the_larger_networks_are_held_back_from_learning_few_images_by_heart() -> None:
    for name in set(NAMES) - set(SMALL):
        recipe = recipes.find(name, "digits")
        assert recipe.label_smoothing > 0
        assert recipe.weight_decay > 0
        assert recipe.max_shift_ratio > 0
        assert recipe.patience < recipe.epochs
