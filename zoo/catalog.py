"""Every architecture, oldest first; notebook exercises, which have no paper, last.

An explicit table: nothing registers itself. ``export`` and ``cli`` read it. Reading it imports no torch,
which takes seconds; building a network does.
"""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from zoo.spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec, ModelSpec, Paper

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class UnknownArchitectureError(LookupError):
    """No row of the catalog has this name."""


_IMAGENET = InputSpec(3, 224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_IMAGENET_LABELS = 1000

_BATCH_NORM = "batch normalisation after every convolution; the paper has none"
_KAIMING = "Kaiming initialisation; the paper draws every weight from one distribution"
_NO_DIVISION = "pixels are also divided by a standard deviation; the paper only subtracts the mean"
_PIXEL_MEAN = (
    "one mean and standard deviation a channel; the paper subtracts a mean a pixel and does not divide"
)
_MINUS_ONE_TO_ONE = "torchvision's weights want mean and std 0.5, the scale -1..1"
_PROJECTION = (
    "shortcuts between widths are 1x1 convolutions (option B); Table 2 of the paper pads with zeros (A)"
)
_V1_5 = '"v1.5": a bottleneck strides in its 3x3 convolution; the paper\'s strides in the first 1x1'
_STEM = "the stem normalises after its convolution, as the authors' code does; Table 1 says before"
_WIDE = "growth rate 48, as in the authors' code; the networks of Table 1 grow by 32"

_VGG = Paper(
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors="Simonyan, Zisserman",
    year=2014,
    link="https://arxiv.org/abs/1409.1556",
)
_RESNET = Paper(
    title="Deep Residual Learning for Image Recognition",
    authors="He, Zhang, Ren, Sun",
    year=2015,
    link="https://arxiv.org/abs/1512.03385",
)
_DENSENET = Paper(
    title="Densely Connected Convolutional Networks",
    authors="Huang, Liu, van der Maaten, Weinberger",
    year=2016,
    link="https://arxiv.org/abs/1608.06993",
)


def _builder(module: str, function: str, *arguments: str) -> Callable[[int, InputSpec], nn.Module]:
    """Name a builder, to be imported when it is called; it takes ``arguments`` before the others."""
    return partial(_build, module, function, *arguments)


def _build(module: str, function: str, *arguments: object) -> nn.Module:
    network: nn.Module = getattr(import_module(f"zoo.{module}"), function)(*arguments)
    return network


def _vgg(name: str, parameters: int, *deviations: str) -> ModelSpec:
    build = _builder("classics", "vgg", name)
    said = (*deviations, _NO_DIVISION, _KAIMING)
    return ModelSpec(name, build, _VGG, _IMAGENET, _IMAGENET_LABELS, parameters, said, small_px=32)


def _resnet(name: str, parameters: int, *deviations: str) -> ModelSpec:
    build = _builder("classics", "resnet", name)
    said = (*deviations, _PIXEL_MEAN)
    return ModelSpec(name, build, _RESNET, _IMAGENET, _IMAGENET_LABELS, parameters, said, small_px=32)


def _densenet(name: str, parameters: int, *deviations: str) -> ModelSpec:
    build = _builder("classics", "densenet", name)
    return ModelSpec(name, build, _DENSENET, _IMAGENET, _IMAGENET_LABELS, parameters, deviations, small_px=32)


CATALOG: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="lenet5",
        build=_builder("lenet", "LeNet5"),
        paper=Paper(
            title="Gradient-Based Learning Applied to Document Recognition",
            authors="LeCun, Bottou, Bengio, Haffner",
            year=1998,
            link="https://doi.org/10.1109/5.726791",
        ),
        # Section II-B: white (0, no ink) is -0.1 and black (1, ink) 1.175, so inputs average about 0.
        input=InputSpec(1, 32, 32, mean=(0.1 / 1.275,), std=(1 / 1.275,)),
        num_classes=10,
        parameters=61_706,  # C1 156, C3 2,416, C5 48,120, F6 10,164, output 850
        deviations=(
            "C3 sees all six maps of S2; Table I of the paper wires 60 of the 96 pairs",
            "plain max pooling; the paper sums each 2x2 field and trains a coefficient, a bias and a sigmoid",
            "plain tanh; the paper scales it to 1.7159 tanh(2x/3)",
            "a linear output; the paper measures distances to fixed pictures of the digits (RBF units)",
        ),
        small_px=32,
    ),
    ModelSpec(
        name="zfnet",
        build=_builder("zfnet", "ZFNet"),
        paper=Paper(
            title="Visualizing and Understanding Convolutional Networks",
            authors="Zeiler, Fergus",
            year=2013,
            link="https://arxiv.org/abs/1311.2901",
        ),
        input=_IMAGENET,
        num_classes=_IMAGENET_LABELS,
        parameters=62_357_608,
        deviations=(
            "the contrast normalisation has the constants of Krizhevsky et al. 2012; the paper gives none",
            "the first filters are not renormalised during training; the paper holds their RMS to 0.1",
            "Kaiming initialisation; the paper sets every weight to 0.01",
            _PIXEL_MEAN,
        ),
        small_px=64,
    ),
    ModelSpec(
        name="alexnet",
        build=_builder("classics", "alexnet"),
        paper=Paper(
            title="One weird trick for parallelizing convolutional neural networks",
            authors="Krizhevsky",
            year=2014,
            link="https://arxiv.org/abs/1404.5997",
        ),
        input=_IMAGENET,
        num_classes=_IMAGENET_LABELS,
        parameters=61_100_840,
        deviations=(
            "one tower, the network of 2014; the one that won ImageNet in 2012 has two, and 96 first maps",
            "no local response normalisation, which the network of 2012 has after its first two convolutions",
            "the fourth convolution has 256 maps, as in torchvision; the paper's footnote says 384",
            "one softmax; the paper trains 1000 independent logistic units",
            "Kaiming initialisation of the convolutions",
        ),
        small_px=64,
    ),
    _vgg("vgg11", 132_863_336),
    _vgg("vgg11_bn", 132_868_840, _BATCH_NORM),
    _vgg("vgg13", 133_047_848),
    _vgg("vgg13_bn", 133_053_736, _BATCH_NORM),
    _vgg("vgg16", 138_357_544),
    _vgg("vgg16_bn", 138_365_992, _BATCH_NORM),
    _vgg("vgg19", 143_667_240),
    _vgg("vgg19_bn", 143_678_248, _BATCH_NORM),
    ModelSpec(
        name="googlenet",
        build=_builder("classics", "googlenet"),
        paper=Paper(
            title="Going Deeper with Convolutions",
            authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
            year=2014,
            link="https://arxiv.org/abs/1409.4842",
        ),
        input=_IMAGENET,
        num_classes=_IMAGENET_LABELS,
        parameters=6_624_904,
        deviations=(
            "batch normalisation after every convolution; the paper normalises responses locally, twice",
            'the "5x5" branches are 3x3, a known error of torchvision that its weights share',
            "the fourth pooling is 2x2; the paper's is 3x3",
            "dropout of 0.2 before the last layer; the paper's is 0.4",
            "no auxiliary heads, which only help training",
            _NO_DIVISION,
            _MINUS_ONE_TO_ONE,
        ),
        small_px=32,
    ),
    ModelSpec(
        name="inception_v3",
        build=_builder("classics", "inception_v3"),
        paper=Paper(
            title="Rethinking the Inception Architecture for Computer Vision",
            authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
            year=2015,
            link="https://arxiv.org/abs/1512.00567",
        ),
        input=_IMAGENET.resized(299, 299),
        num_classes=_IMAGENET_LABELS,
        parameters=23_834_568,
        deviations=(
            "the stem ends in a 1x1, a 3x3 and a pooling, as in the authors' code; Table 1 has three 3x3",
            "the 35x35 modules keep a 5x5 branch, as in the authors' code; figure 5 makes it two 3x3",
            "batch normalisation after every convolution, which the paper only mentions beside its Table 3",
            "no auxiliary head, which only helps training",
            _MINUS_ONE_TO_ONE,
        ),
        small_px=75,
    ),
    _resnet("resnet18", 11_689_512, _PROJECTION),
    _resnet("resnet34", 21_797_672, _PROJECTION),
    _resnet("resnet50", 25_557_032, _V1_5),
    _resnet("resnet101", 44_549_160, _V1_5),
    _resnet("resnet152", 60_192_808, _V1_5),
    _densenet("densenet121", 7_978_856, _STEM),
    _densenet("densenet161", 28_681_000, _STEM, _WIDE),
    _densenet("densenet169", 14_149_480, _STEM),
    _densenet("densenet201", 20_013_928, _STEM),
    ModelSpec(
        name="simple_cnn",
        build=_builder("notebook", "simple_cnn"),
        paper=None,  # the Keras notebook
        input=InputSpec(1, 8, 8, mean=(0.0,), std=(1.0,)),  # scikit-learn's digits, scaled to 0..1
        num_classes=10,
        parameters=30_000,  # convolution 640, dense 28,850 and 510
        deviations=(
            "written in PyTorch: flattened maps run channels first; the notebook's Keras has them last",
            "logits; the notebook's network ends in a softmax, which the exported graph adds",
        ),
        small_px=8,
    ),
    ModelSpec(
        name="two_block_cnn",
        build=_builder("notebook", "two_block_cnn"),
        paper=None,  # the PyTorch notebook
        input=InputSpec(1, 28, 28, mean=(0.0,), std=(1.0,)),  # MNIST, scaled to 0..1
        num_classes=10,
        parameters=2_174,  # convolutions 40 and 148, batch normalisations 8 and 8, linear 1,970
        deviations=(),
        small_px=28,
    ),
)


def find(name: str) -> ModelSpec:
    """Look an architecture up.

    Args:
        name: As in the catalog.

    Returns:
        Its row.

    Raises:
        UnknownArchitectureError: no row has this name; the message proposes the closest ones.
    """
    for spec in CATALOG:
        if spec.name == name:
            return spec
    names = [spec.name for spec in CATALOG]
    closest = get_close_matches(name.lower(), names)
    hint = f"did you mean {' or '.join(closest)}?" if closest else f"the catalog has {', '.join(names)}"
    raise UnknownArchitectureError(f"no architecture is called {name!r}; {hint}")


def _refuse_duplicates(specs: tuple[ModelSpec, ...]) -> None:
    """Check that a name finds one row.

    Raises:
        ValueError: two rows share a name.
    """
    repeated = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
    if repeated:
        raise ValueError(f"the catalog has two rows called {', '.join(repeated)}")


_refuse_duplicates(CATALOG)
