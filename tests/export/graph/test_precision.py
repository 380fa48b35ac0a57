"""In fewer bits a graph keeps its signature and, closely, its answers."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, numpy_helper
from torch import nn

from export.graph import precision, tracing, verification
from export.graph.precision import Calibration
from tests.operators import operators
from zoo import catalog
from zoo.spec import InputSpec
from zoo.zfnet import LocalResponseNorm

COLOUR = InputSpec(3, 16, 16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF_OPERATORS = {
    "Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Conv", "Gemm", "LRN", "MaxPool", "Mul",
    "ReduceMean", "Relu", "Reshape", "Softmax", "Tanh", "Transpose",
}  # fmt: skip


class Sampler(nn.Module):
    """One of each: shortcut, concatenation, free-standing batch normalisation, LRN, every pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.norm = nn.BatchNorm2d(16)
        self.lrn = LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)
        self.third = nn.Conv2d(16, 24, 3)
        self.last = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.first(x), 2)  # [N, 8, 8, 8]
        x = torch.relu(self.second(x) + x)
        x = self.lrn(torch.relu(self.norm(torch.cat((x, torch.tanh(x)), dim=1))))  # [N, 16, 8, 8]
        x = torch.tanh(nn.functional.avg_pool2d(self.third(x), 2))  # [N, 24, 3, 3]
        return self.last(x.mean((-2, -1)))


@dataclass(frozen=True)
class Case:
    """An exported network with pictures, its answers in fp32, and its conversions."""

    path: Path
    images: np.ndarray
    probabilities: np.ndarray
    half: Path
    int8: dict[Calibration, Path]


def pictures(spec: InputSpec, count: int = 60) -> np.ndarray:
    """Patches of 4 x 4 pixels, from dark to bright: flatter than noise, like pictures."""
    rng = np.random.default_rng(1)
    patches = rng.integers(
        0, 256, (count, math.ceil(spec.height / 4), math.ceil(spec.width / 4), spec.channels)
    )
    images = patches.repeat(4, axis=1).repeat(4, axis=2)[:, : spec.height, : spec.width]
    return (images * rng.uniform(0.2, 1, (count, 1, 1, 1))).astype(np.uint8)  # [N, H, W, C]


def lively(network: nn.Module, spec: InputSpec) -> tracing.ServedNetwork:
    """Give a random network the statistics of its pictures, and logits that differ between them."""
    served = tracing.ServedNetwork(network, spec)
    images = torch.tensor(pictures(spec))
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator)
            module.momentum = None  # a plain average
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        served.train().logits(images)
        logits = served.eval().logits(images)  # [N, K]
        factor = 1 / logits.std(dim=0)  # [K]
        last.weight *= factor[:, None]
        last.bias.copy_((last.bias - logits.mean(dim=0)) * factor)
    return served


def build(name: str) -> tuple[nn.Module, InputSpec]:
    torch.manual_seed(0)
    if name == "sampler":
        return Sampler(), COLOUR
    spec = catalog.find(name)
    side_px = {"resnet18": 32, "zfnet": 63}.get(name, spec.input.height)
    shape = spec.input.resized(side_px, side_px)
    return spec.network(10, shape), shape


@pytest.fixture(
    scope="module",
    params=[
        "sampler",
        "lenet5",
        "simple_cnn",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "zfnet")),
    ],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    served = lively(*build(request.param))
    images = pictures(served.input_spec)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    converted = tmp_path_factory.mktemp("converted")
    tracing.to_onnx(served, path)
    int8 = {method: converted / f"{method.value}.onnx" for method in Calibration}
    case = Case(path, images, answers(path, images), converted / "fp16.onnx", int8)
    precision.to_fp16(path, case.half)
    for method, target in int8.items():
        precision.to_int8(path, target, images, method)
    return case


def answers(path: Path, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    return verification.in_batches(verification.open_on_cpu(path), images, batch_size)


def agreement(case: Case, got: np.ndarray) -> float:
    return float((case.probabilities.argmax(1) == got.argmax(1)).mean())


def nodes_by_output(path: Path) -> dict[str, NodeProto]:
    return {name: node for node in onnx.load(path).graph.node for name in node.output}


def signature(path: Path) -> list[tuple[str, int, list[str | int]]]:
    model = onnx.load(path)
    return [
        (value.name, value.type.tensor_type.elem_type,
         [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]  # fmt: skip


@pytest.fixture
def half(case: Case) -> Path:
    return case.half


@pytest.fixture
def int8(case: Case) -> Path:
    return case.int8[Calibration.MINMAX]


def test_half_precision_gives_the_answers_of_fp32(case: Case, half: Path) -> None:
    assert case.probabilities.max(axis=1).mean() > 0.25  # the network is sure enough to be wrong
    assert len(set(case.probabilities.argmax(axis=1))) > 5
    for batch_size in (1, 2, 3, 7):
        got = answers(half, case.images, batch_size)
        np.testing.assert_allclose(got, case.probabilities, rtol=0, atol=1e-2)
        assert agreement(case, got) >= 0.98


def test_half_precision_adds_only_casts_and_each_of_them_once(case: Case, half: Path) -> None:
    before, after = operators(case.path), operators(half)
    assert after.keys() <= HALF_OPERATORS
    assert after - before == Counter({"Cast": 2 + 2 * before["LRN"]})
    assert before - after == Counter()
    makers = nodes_by_output(half)
    cast = [node.input[0] for node in makers.values() if node.op_type == "Cast"]
    assert len(cast) == len(set(cast))
    assert [name for name in cast if name in makers and makers[name].op_type == "Cast"] == []


def test_half_precision_begins_at_the_first_layer_and_ends_before_softmax(case: Case, half: Path) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(half), strict_mode=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)
    }
    kept = {"Mul", "LRN", "Softmax"}  # Add is normalisation or shortcut
    for node in inferred.node:
        if node.op_type not in {"Add", "Cast", "Transpose"}:
            wanted = TensorProto.FLOAT if node.op_type in kept else TensorProto.FLOAT16
            assert types[node.output[0]] == wanted, node.op_type
    floats = {tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT}
    assert len(floats) == 2  # scale and shift


# Largest and mean difference of a probability, and labels that stay. The deep networks are random: each of
# their layers adds its error. Entropy calibration cuts rare bright pictures off.
INT8 = {
    ("shallow", Calibration.MINMAX): (0.05, 0.006, 0.93),
    ("shallow", Calibration.PERCENTILE): (0.06, 0.006, 0.93),
    ("shallow", Calibration.ENTROPY): (0.5, 0.02, 0.8),
    ("deep", Calibration.MINMAX): (0.2, 0.02, 0.7),
    ("deep", Calibration.PERCENTILE): (0.2, 0.02, 0.7),
    ("deep", Calibration.ENTROPY): (0.25, 0.025, 0.7),
}


@pytest.mark.parametrize("method", Calibration)
def test_int8_gives_nearly_the_answers_of_fp32(case: Case, method: Calibration) -> None:
    depth = "deep" if operators(case.path)["Conv"] > 3 else "shallow"
    largest, mean, labels = INT8[depth, method]
    for batch_size in (1, 2, 3, 7):
        got = answers(case.int8[method], case.images, batch_size)
        difference = np.abs(got - case.probabilities)
        assert 0 < difference.max() <= largest
        assert difference.mean() <= mean
        assert agreement(case, got) >= labels


def test_int8_quantises_every_layer_and_shortcut_and_no_normalisation(case: Case, int8: Path) -> None:
    makers = nodes_by_output(int8)
    after_layer: set[str] = set()
    seen: Counter[str] = Counter()
    for node in onnx.load(int8).graph.node:
        sources = [makers[name].op_type for name in node.input if name in makers]
        if node.op_type in {"Conv", "Gemm"}:
            assert sources == ["DequantizeLinear"] * len(node.input)  # image, weight and bias
            seen["layer"] += 1
            after_layer |= set(node.output)
        elif not after_layer.isdisjoint(node.input):
            after_layer |= set(node.output)
            if node.op_type == "Add":
                assert sources == ["DequantizeLinear"] * 2
                seen["shortcut"] += 1
        elif node.op_type in {"Mul", "Add", "Cast", "Transpose"}:
            assert "DequantizeLinear" not in sources
            seen["normalisation"] += 1
    before = operators(case.path)
    assert seen == {
        "layer": before["Conv"] + before["Gemm"], "normalisation": 4,
        **({"shortcut": before["Add"] - 1} if before["Add"] > 1 else {}),
    }  # fmt: skip


def test_int8_leaves_logits_and_softmax_in_float(case: Case, int8: Path) -> None:
    makers = nodes_by_output(int8)
    (softmax,) = (node for node in makers.values() if node.op_type == "Softmax")
    assert makers[softmax.input[0]].op_type == "Gemm"
    assert list(softmax.output) == ["probabilities"]


def test_int8_holds_unsigned_activations_and_a_scale_for_each_channel(case: Case, int8: Path) -> None:
    makers = nodes_by_output(int8)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(int8).graph.initializer}
    for node in makers.values():
        if node.op_type == "QuantizeLinear":
            assert weights[node.input[2]].dtype == np.uint8
        elif node.op_type in {"Conv", "Gemm"}:
            quantised, scale = makers[node.input[1]].input[:2]
            assert weights[quantised].dtype == np.int8
            assert weights[scale].shape == weights[quantised].shape[:1]


def test_a_converted_file_has_the_signature_and_says_nothing_else(case: Case, half: Path, int8: Path) -> None:
    for path, largest in ((half, 0.56), (int8, 0.72)):  # graph and scales weigh in a small file
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        assert signature(path) == signature(case.path)
        assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (
            10,
            [("", 20)],
        )
        parts = (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input)
        assert [part for part in parts if part.metadata_props or part.doc_string] == []
        taken = {name for node in model.graph.node for name in node.input}
        assert {tensor.name for tensor in model.graph.initializer} <= taken
        assert path.stat().st_size < largest * case.path.stat().st_size
    assert set(half.parent.iterdir()) == {case.half, *case.int8.values()}
