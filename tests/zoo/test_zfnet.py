from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from zoo.catalog import find
from zoo.zfnet import LocalResponseNorm, ZFNet


def test_maps_shrink_as_in_figure_3() -> None:
    with torch.device("meta"):
        network = find("zfnet").network().get_submodule("features")
        x = torch.empty(1, 3, 224, 224)
        sides = []
        for layer in network.children():
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                sides.append((x.shape[1], x.shape[2], x.shape[3]))
    assert sides == [
        (96, 110, 110),
        (96, 55, 55),
        (256, 26, 26),
        (256, 13, 13),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
        (256, 6, 6),
    ]


@pytest.mark.parametrize("side_px", [63, 64, 71, 79, 80, 95, 96, 100, 127, 225])
def test_first_dense_layer_fits_the_last_map_at_any_size(side_px: int) -> None:
    with torch.device("meta"):
        network = ZFNet(10, find("zfnet").input.resized(side_px, side_px + 16))
        assert network(torch.empty(2, 3, side_px, side_px + 16)).shape == (2, 10)


def test_smallest_picture_is_63_pixels_wide() -> None:
    with torch.device("meta"):
        features = ZFNet(10, find("zfnet").input.resized(63, 63)).features
        assert features(torch.empty(1, 3, 63, 63)).shape == (1, 256, 1, 1)
        with pytest.raises(RuntimeError, match="too small"):
            features(torch.empty(1, 3, 62, 62))
        with pytest.raises(ValueError, match="zfnet needs at least 63x63 pixels, not 62x62"):
            ZFNet(10, find("zfnet").input.resized(62, 62))


def test_normalisation_follows_the_formula_of_the_2012_paper() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, 3, dtype=torch.float64) * 20
    expected = torch.empty_like(x)
    for i in range(7):
        energy = (x[:, max(0, i - 2) : i + 3] ** 2).sum(1)
        expected[:, i] = x[:, i] / (2 + 1e-4 * energy) ** 0.75  # k = 2, n = 5, alpha = 1e-4, beta = 0.75
    network = ZFNet(10, find("zfnet").input.resized(64, 64))
    norms = [part for part in network.modules() if isinstance(part, LocalResponseNorm)]
    assert len(norms) == 2
    for norm in norms:
        torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


def test_normalisation_equals_pytorchs_own() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 96, 5, 5) * 30
    ours, theirs = LocalResponseNorm(5, 5e-4, 0.75, 2.0), nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_even_number_of_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number of maps, not 4"):
        LocalResponseNorm(4, 1e-4, 0.75, 2.0)


def test_normalisation_exports_as_one_node_that_computes_the_same() -> None:
    torch.manual_seed(0)
    norm = LocalResponseNorm(5, 5e-4, 0.75, 2.0).eval()
    program = torch.onnx.export(
        norm,
        (torch.zeros(2, 96, 5, 7),),
        dynamo=True,
        opset_version=20,
        input_names=["maps"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
        verbose=False,
    )
    assert program is not None
    nodes = program.model_proto.graph.node
    assert [(node.op_type, node.domain) for node in nodes] == [("LRN", "")]
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        maps = torch.randn(batch, 96, 5, 7) * 30
        (answer,) = session.run(None, {"maps": maps.numpy()})
        np.testing.assert_allclose(answer, norm(maps).numpy(), rtol=0, atol=1e-5)
