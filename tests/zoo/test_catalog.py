from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zoo.catalog import CATALOG, UnknownArchitectureError, _refuse_duplicates, find
from zoo.spec import InputSpec, ModelSpec

PARAMETERS = {
    "lenet5": 61_706,
    "zfnet": 62_357_608,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "googlenet": 6_624_904,
    "inception_v3": 23_834_568,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "simple_cnn": 30_000,
    "two_block_cnn": 2_174,
}
SMALL_SIDES_PX = {
    "lenet5": 32,
    "zfnet": 64,
    "alexnet": 64,
    "inception_v3": 75,
    "simple_cnn": 8,
    "two_block_cnn": 28,
}
ONE_A_FAMILY = (
    "lenet5",
    "zfnet",
    "alexnet",
    "vgg11",
    "googlenet",
    "inception_v3",
    "resnet18",
    "densenet121",
    "simple_cnn",
    "two_block_cnn",
)
every_row = pytest.mark.parametrize("spec", CATALOG, ids=lambda spec: spec.name)


def logits_shape(spec: ModelSpec, num_classes: int, input_spec: InputSpec) -> tuple[int, ...]:
    with torch.device("meta"):
        network = spec.network(num_classes, input_spec)
        pixels = torch.empty(2, input_spec.channels, input_spec.height, input_spec.width)
        return tuple(network(pixels).shape)


def test_catalog_holds_these_networks_in_this_order() -> None:
    assert [spec.name for spec in CATALOG] == list(PARAMETERS)


def test_rows_are_oldest_first_with_notebooks_last() -> None:
    years = [spec.paper.year if spec.paper else 9999 for spec in CATALOG]
    assert years == sorted(years)
    assert [spec.name for spec in CATALOG if spec.paper is None] == ["simple_cnn", "two_block_cnn"]


@every_row
def test_row_says_how_many_parameters_and_which_shape(spec: ModelSpec) -> None:
    with torch.device("meta"):
        network = spec.network()
        logits = network(torch.empty(2, spec.input.channels, spec.input.height, spec.input.width))
    count = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert count == spec.parameters == PARAMETERS[spec.name]
    assert logits.shape == (2, spec.num_classes)


@pytest.mark.parametrize("name", [*ONE_A_FAMILY, "vgg11_bn", "vgg16", "vgg19", "resnet50"])
def test_small_pictures_become_logits_of_ten_digits(name: str) -> None:
    spec, side_px = find(name), SMALL_SIDES_PX.get(name, 32)
    assert logits_shape(spec, 10, spec.input.resized(side_px, side_px)) == (2, 10)


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_pictures_need_not_be_square_nor_coloured(name: str) -> None:
    spec, side_px = find(name), SMALL_SIDES_PX.get(name, 32)
    two_channels = InputSpec(2, side_px + 8, side_px, mean=(0.5, 0.5), std=(0.5, 0.5))
    assert logits_shape(spec, 7, two_channels) == (2, 7)


@every_row
def test_every_classic_names_its_paper_and_what_differs_from_it(spec: ModelSpec) -> None:
    if spec.paper is None:
        return
    assert spec.paper.link.startswith(("https://arxiv.org/abs/", "https://doi.org/"))
    assert spec.paper.title
    assert spec.paper.authors
    assert spec.deviations
    assert all(spec.deviations)
    arxiv = spec.paper.link.rpartition("/")[2]
    if "arxiv" in spec.paper.link:
        assert arxiv[:2] == str(spec.paper.year)[2:]  # arXiv's numbers begin with the year


def test_batch_normalised_vgg_says_that_the_paper_has_none() -> None:
    for depth in (11, 13, 16, 19):
        assert any("batch normalisation" in line for line in find(f"vgg{depth}_bn").deviations)
        assert not any("batch normalisation" in line for line in find(f"vgg{depth}").deviations)


def test_name_finds_its_row() -> None:
    assert find("resnet50").parameters == 25_557_032


@pytest.mark.parametrize(
    ("asked", "proposed"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("lenet", "lenet5"),
        ("inceptionv3", "inception_v3"),
    ],
)
def test_unknown_name_is_answered_with_the_closest(asked: str, proposed: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=f"called '{asked}'; did you mean {proposed}"):
        find(asked)


def test_name_like_no_other_is_answered_with_all_names() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"the catalog has lenet5, zfnet, .*two_block_cnn"):
        find("42")


def test_unknown_architecture_is_a_lookup_error() -> None:
    assert issubclass(UnknownArchitectureError, LookupError)


def test_two_rows_of_one_name_are_refused() -> None:
    _refuse_duplicates(CATALOG)
    with pytest.raises(ValueError, match="two rows called lenet5"):
        _refuse_duplicates((*CATALOG, replace(find("zfnet"), name="lenet5")))
