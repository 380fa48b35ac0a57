"""Every family exports at a small size to its layers and nothing else, and answers as PyTorch does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from export.graph import tracing, verification
from tests.operators import operators
from zoo.catalog import find

# 4 to 40 s each on two cores, together minutes; tests/export/graph/test_tracing.py has the digits networks.
pytestmark = pytest.mark.slow
WRAPPING = Counter(("Transpose", "Cast", "Mul", "Add", "Softmax"))


@pytest.mark.parametrize(
    ("name", "side_px", "layers"),
    [
        ("zfnet", 64, {"Conv": 5, "Gemm": 3, "LRN": 2, "MaxPool": 3, "Relu": 7, "Reshape": 1}),
        ("vgg11_bn", 32, {"Conv": 8, "Gemm": 3, "MaxPool": 5, "Relu": 10, "Reshape": 1}),
        ("alexnet", 64, {"Conv": 5, "Gemm": 3, "MaxPool": 3, "Relu": 7, "Reshape": 1}),
        ("resnet18", 32, {"Add": 8, "Conv": 20, "Gemm": 1, "MaxPool": 1, "ReduceMean": 1, "Relu": 17}),
        ("googlenet", 32, {"Concat": 9, "Conv": 57, "Gemm": 1, "MaxPool": 13, "ReduceMean": 1, "Relu": 57}),
        (
            "inception_v3",
            75,
            {
                "AveragePool": 9,
                "Concat": 15,
                "Conv": 94,
                "Gemm": 1,
                "MaxPool": 4,
                "ReduceMean": 1,
                "Relu": 94,
            },
        ),
        ("resnet50", 32, {"Add": 16, "Conv": 53, "Gemm": 1, "MaxPool": 1, "ReduceMean": 1, "Relu": 49}),
        (
            "densenet121",
            32,
            {
                "AveragePool": 3,
                "BatchNormalization": 62,
                "Concat": 58,
                "Conv": 120,
                "Gemm": 1,
                "MaxPool": 1,
                "ReduceMean": 1,
                "Relu": 121,
            },
        ),
    ],
)
def test_family_exports_to_its_layers_and_answers_the_same(
    name: str, side_px: int, layers: dict[str, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    spec = find(name)
    small = spec.input.resized(side_px, side_px)
    served = tracing.ServedNetwork(spec.network(10, small), small)
    path = tmp_path / "model.onnx"
    tracing.to_onnx(served, path)
    assert operators(path) == WRAPPING + Counter(layers)

    run = verification.open_on_cpu(path)
    shape = (3, side_px, side_px, spec.input.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with torch.no_grad():
        expected = served(torch.tensor(images)).numpy()
    for count in (1, 3):
        np.testing.assert_allclose(run(images[:count]), expected[:count], rtol=0, atol=1e-5)
