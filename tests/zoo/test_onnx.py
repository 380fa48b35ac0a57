from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch

from export.graph import FORBIDDEN_OPERATORS
from zoo.catalog import find

pytestmark = pytest.mark.slow
SLOW = pytest.mark.slow  # 2 to 25 s each on two cores, together more than a minute


@pytest.mark.parametrize(
    ("name", "side_px", "expected"),
    [
        ("lenet5", 32, {"Conv": 3, "Gemm": 2, "MaxPool": 2, "Reshape": 1, "Tanh": 4}),
        ("simple_cnn", 8, {"Conv": 1, "Gemm": 2, "MaxPool": 1, "Relu": 2, "Reshape": 1}),
        ("two_block_cnn", 28, {"Conv": 2, "Gemm": 1, "MaxPool": 2, "Relu": 2, "Reshape": 1}),
        pytest.param(
            "zfnet",
            64,
            {"Conv": 5, "Gemm": 3, "LRN": 2, "MaxPool": 3, "Relu": 7, "Reshape": 1},
            marks=SLOW,
        ),
        pytest.param(
            "alexnet", 64, {"Conv": 5, "Gemm": 3, "MaxPool": 3, "Relu": 7, "Reshape": 1}, marks=SLOW
        ),
        pytest.param(
            "vgg11_bn", 32, {"Conv": 8, "Gemm": 3, "MaxPool": 5, "Relu": 10, "Reshape": 1}, marks=SLOW
        ),
        ("resnet18", 32, {"Add": 8, "Conv": 20, "Gemm": 1, "MaxPool": 1, "ReduceMean": 1, "Relu": 17}),
        pytest.param(
            "googlenet",
            32,
            {"Concat": 9, "Conv": 57, "Gemm": 1, "MaxPool": 13, "ReduceMean": 1, "Relu": 57},
            marks=SLOW,
        ),
        pytest.param(
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
            marks=SLOW,
        ),
        pytest.param(
            "resnet50",
            32,
            {"Add": 16, "Conv": 53, "Gemm": 1, "MaxPool": 1, "ReduceMean": 1, "Relu": 49},
            marks=SLOW,
        ),
        pytest.param(
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
            marks=SLOW,
        ),
    ],
)
def test_family_exports_without_shape_arithmetic_and_answers_the_same(
    name: str, side_px: int, expected: dict[str, int]
) -> None:
    torch.manual_seed(0)
    spec = find(name)
    size = (spec.input.channels, side_px, side_px)
    network = spec.network(10, spec.input.resized(side_px, side_px)).eval()
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *size),),
        dynamo=True,
        opset_version=20,
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    operators = Counter(node.op_type for node in proto.graph.node)
    assert not FORBIDDEN_OPERATORS & set(operators)
    assert operators == expected
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(batch, *size)
        (answer,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            logits = network(images).numpy()
        np.testing.assert_allclose(answer, logits, rtol=0, atol=1e-5 * max(1.0, float(abs(logits).max())))
