"""torchvision's classics, made export-clean: same layers, same state-dict keys, no pooling to a shape.

``catalog`` lists these networks; ``export`` trains them, or loads torchvision's weights (see ``weights``)
into them. Nothing but these two files imports torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision import models  # type: ignore[import-untyped]

from zoo.spec import InputSpec

_KAIMING = partial(nn.init.kaiming_normal_, nonlinearity="relu")
_NARROW = partial(nn.init.normal_, std=0.01)

# The smallest sides at which torchvision's layers leave a pixel on every map.
_SMALLEST_PX = {"alexnet": 63, "vgg": 32, "googlenet": 15, "inception_v3": 75, "resnet": 1, "densenet": 29}


class GlobalAveragePool(nn.Module):
    """The mean of each map, written so that it exports as one ``ReduceMean`` without shape arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        """Average each map: ``[N, C, H, W]`` to ``[N, C]``."""
        return x.mean((-2, -1))


class FeaturesAndClassifier(nn.Module):
    """A torchvision network cut into three, under torchvision's own names.

    Args:
        features: Normalised float32 ``[N, C, H, W]`` to maps.
        pool: Maps to vectors; without parameters, so that the state dict does not know it.
        classifier: Vectors to logits.
    """

    def __init__(self, features: nn.Module, pool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = pool
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            x: Normalised float32 ``[N, C, H, W]``.

        Returns:
            Logits, float32 ``[N, K]``.
        """
        logits: Tensor = self.classifier(self.pool(self.features(x)))  # [N, K]
        return logits


def alexnet(num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build torchvision's AlexNet; its first linear layer fits the input.

    Args:
        num_classes: K.
        input_spec: Size and channels; 63x63 or more.

    Returns:
        Normalised float32 ``[N, C, H, W]`` to logits, float32 ``[N, K]``.

    Raises:
        ValueError: the input is too small.

    Reference:
        Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
        https://arxiv.org/abs/1404.5997.

    Deviations:
        As listed in the catalog; so for all builders of this file.
    """
    input_spec.require_at_least(_SMALLEST_PX["alexnet"], "alexnet")
    draft = _draft("alexnet", num_classes, input_spec)
    return _initialised(_fitted(draft, input_spec), fan="fan_in")


def vgg(name: str, num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build a VGG of torchvision's, ``vgg11`` to ``vgg19_bn``; its first linear layer fits the input.

    Arguments after ``name``, result and error as ``alexnet``'s; 32x32 pixels or more.

    Reference:
        Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
        https://arxiv.org/abs/1409.1556, table 1, columns A, B, D and E.
    """
    input_spec.require_at_least(_SMALLEST_PX["vgg"], name)
    draft = _draft(name, num_classes, input_spec, init_weights=False)
    # torchvision draws the linear layers 0.01 wide, about Kaiming's width for the 25,088 inputs of a
    # 224x224 picture. Of the 512 of a 32x32 picture too little would come through: without batch
    # normalisation the network stood still on digits for 90 steps, with Kaiming's width it learnt.
    linear = _NARROW if name.endswith("_bn") else _KAIMING
    return _initialised(_fitted(draft, input_spec), fan="fan_out", linear=linear)


def googlenet(num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build torchvision's GoogLeNet without auxiliary heads.

    Arguments, result and error as ``alexnet``'s; 15x15 pixels or more.

    Reference:
        Szegedy et al., "Going Deeper with Convolutions", 2014, https://arxiv.org/abs/1409.4842, table 1.
    """
    input_spec.require_at_least(_SMALLEST_PX["googlenet"], "googlenet")
    draft = _draft("googlenet", num_classes, input_spec, aux_logits=False, init_weights=False)
    return _initialised(_pooled(draft), fan="fan_in")


def inception_v3(num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build torchvision's Inception v3 without its auxiliary head.

    Arguments, result and error as ``alexnet``'s; 75x75 pixels or more.

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015,
        https://arxiv.org/abs/1512.00567, table 1.
    """
    input_spec.require_at_least(_SMALLEST_PX["inception_v3"], "inception_v3")
    draft = _draft("inception_v3", num_classes, input_spec, aux_logits=False, init_weights=False)
    return _initialised(_pooled(draft), fan="fan_in")


def resnet(name: str, num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build a ResNet of torchvision's, ``resnet18`` to ``resnet152``.

    Arguments after ``name`` and result as ``alexnet``'s; any size.

    Reference:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
        https://arxiv.org/abs/1512.03385, table 1.
    """
    input_spec.require_at_least(_SMALLEST_PX["resnet"], name)
    return _initialised(_pooled(_draft(name, num_classes, input_spec)), fan="fan_out")


def densenet(name: str, num_classes: int, input_spec: InputSpec) -> nn.Module:
    """Build a DenseNet of torchvision's, ``densenet121`` to ``densenet201``.

    Arguments after ``name``, result and error as ``alexnet``'s; 29x29 pixels or more.

    Reference:
        Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2016,
        https://arxiv.org/abs/1608.06993, table 1.
    """
    input_spec.require_at_least(_SMALLEST_PX["densenet"], name)
    draft = _draft(name, num_classes, input_spec)
    pool = nn.Sequential(nn.ReLU(inplace=True), GlobalAveragePool())
    network = FeaturesAndClassifier(draft.get_submodule("features"), pool, draft.get_submodule("classifier"))
    return _initialised(network, fan="fan_in")


def _draft(name: str, num_classes: int, input_spec: InputSpec, **arguments: bool) -> nn.Module:
    """Make torchvision's network on the meta device, where layers about to be replaced cost nothing."""
    with torch.device("meta"):
        network: nn.Module = getattr(models, name)(weights=None, num_classes=num_classes, **arguments)
        # torchvision's stems take three channels; each is the first convolution registered.
        path, stem = next(
            (path, part) for path, part in network.named_modules() if isinstance(part, nn.Conv2d)
        )
        if input_spec.channels != stem.in_channels:
            network.set_submodule(path, _with_channels(stem, input_spec.channels))
    return network


def _with_channels(stem: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Make a convolution like ``stem`` for another number of input channels."""
    return nn.Conv2d(
        channels,
        stem.out_channels,
        kernel_size=(stem.kernel_size[0], stem.kernel_size[1]),
        stride=(stem.stride[0], stem.stride[1]),
        padding=stem.padding if isinstance(stem.padding, str) else (stem.padding[0], stem.padding[1]),
        bias=stem.bias is not None,
    )


def _pooled(draft: nn.Module) -> nn.Module:
    """Replace ``avgpool`` by the mean of each map; torchvision's flattening after it then changes nothing."""
    draft.avgpool = GlobalAveragePool()
    return draft


def _fitted(draft: nn.Module, input_spec: InputSpec) -> nn.Module:
    """Drop the adaptive pool of AlexNet or VGG and size the first linear layer to the input's last map.

    At 224x224 that is torchvision's own size: its pool changes nothing there.
    """
    features, classifier = draft.get_submodule("features"), draft.get_submodule("classifier")
    with torch.device("meta"), torch.no_grad():
        pixels = torch.empty(1, input_spec.channels, input_spec.height, input_spec.width)
        inputs = features.eval()(pixels).numel()
        name, first = next(
            (name, part) for name, part in classifier.named_children() if isinstance(part, nn.Linear)
        )
        setattr(classifier, name, nn.Linear(inputs, first.out_features))
    return FeaturesAndClassifier(features.train(), nn.Flatten(), classifier)


def _initialised(
    network: nn.Module,
    fan: Literal["fan_in", "fan_out"],
    linear: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """Move a draft to the default device and draw its first weights.

    Kaiming normal for convolutions. torchvision starts GoogLeNet and Inception with a truncated normal,
    which takes it many seconds; under batch normalisation the width of the first weights hardly matters.

    Args:
        network: On the meta device; changed in place.
        fan: What the convolutions' first weights keep the same width: maps forward, or gradients back.
        linear: Draws the weights of the linear layers in place; their own start when None.

    Returns:
        ``network``, in training mode.
    """
    network.to_empty(device=torch.get_default_device())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear is not None:
            linear(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
    return network
