"""What cannot be trained is refused by name; what can is in the catalog."""

import pytest

from export import datasets, recipes
from zoo import catalog


@pytest.mark.parametrize(("architecture", "dataset"), recipes.RECIPES)
def test_every_recipe_is_for_a_known_architecture_and_dataset(architecture: str, dataset: str) -> None:
    assert catalog.find(architecture).name == architecture
    loaded = datasets.load(dataset, seed=0)
    assert len(loaded.labels) > 1
    assert recipes.find(architecture, dataset) is recipes.RECIPES[architecture, dataset]
    assert dataset in recipes.datasets_for(architecture)


def test_an_architecture_without_a_recipe_is_refused_and_those_with_one_are_named() -> None:
    with pytest.raises(recipes.UnknownRecipeError) as caught:
        recipes.find("vgg19", "digits")
    message = str(caught.value)
    assert message.startswith("vgg19 cannot be trained on 'digits' here; ")
    assert all(name in message for name in ("simple_cnn", "two_block_cnn", "lenet5"))


def test_a_dataset_that_nothing_is_trained_on_is_refused() -> None:
    with pytest.raises(recipes.UnknownRecipeError, match=r"on 'letters' here; nothing can$"):
        recipes.find("lenet5", "letters")


def test_an_architecture_without_recipes_has_no_datasets() -> None:
    assert recipes.datasets_for("vgg19") == []
