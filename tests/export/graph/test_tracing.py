"""An exported file holds the network and its wrapping, and nothing of the machine that wrote it."""

import gc
import getpass
import os
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf.message import Message
from torch import nn

from export import pipeline
from export.graph import tracing
from tests.operators import operators
from zoo.spec import InputSpec

Exported = dict[str, pipeline.Exported]

WRAPPING = {"Transpose": 1, "Cast": 1, "Mul": 1, "Add": 1, "Softmax": 1}
OPERATORS = {
    "simple_cnn-digits": WRAPPING | {"Conv": 1, "Relu": 2, "MaxPool": 1, "Reshape": 1, "Gemm": 2},
    "two_block_cnn-digits": WRAPPING | {"Conv": 2, "Relu": 2, "MaxPool": 2, "Reshape": 1, "Gemm": 1},
    "lenet5-digits": WRAPPING | {"Conv": 3, "Tanh": 4, "MaxPool": 2, "Reshape": 1, "Gemm": 2},
}
GREY = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))


def model_path(exported: Exported, name: str) -> Path:
    return exported[name].folder / "model.onnx"


def messages(message: Message) -> Iterator[Message]:
    """A message and everything inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else (value,):
                yield from messages(child)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_graph_holds_the_network_its_wrapping_and_nothing_else(exported: Exported, name: str) -> None:
    # Batch normalisation is folded into the convolution before it.
    assert operators(model_path(exported, name)) == Counter(OPERATORS[name])


@pytest.mark.parametrize("name", OPERATORS)
def test_the_signature_is_the_artifacts(exported: Exported, name: str) -> None:
    model = onnx.load(model_path(exported, name))
    shape = exported[name].manifest.input
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert len(model.functions) == 0
    (images,), (probabilities,) = model.graph.input, model.graph.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert probabilities.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    sides = [
        [dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim]
        for v in (images, probabilities)
    ]
    assert sides == [["N", shape.height, shape.width, shape.channels], ["N", 10]]


@pytest.mark.parametrize("name", OPERATORS)
def test_the_file_says_nothing_of_the_machine_that_wrote_it(exported: Exported, name: str) -> None:
    path = model_path(exported, name)
    for message in messages(onnx.load(path)):
        fields = {field.name for field, _ in message.ListFields()}
        assert not fields & {"metadata_props", "doc_string", "external_data"}
    content = path.read_bytes()
    root = Path(tracing.__file__).parent.parent.parent
    places = {str(root), sys.prefix, os.fspath(Path.cwd()), os.fspath(Path.home()), str(path.parent)} - {"/"}
    words = {"site-packages", ".py", 'File "', "Traceback", "forward(", "nn.Module", "/home/", "/tmp/"}
    if len(getpass.getuser()) > 3:
        words.add(f"/{getpass.getuser()}/")
    assert [word for word in sorted(places | words) if word.encode() in content] == []


def test_unstripped_the_file_would_have_said_it() -> None:
    served = tracing.ServedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), GREY).eval()
    program = torch.onnx.export(
        served, (torch.zeros((2, 8, 8, 1), dtype=torch.uint8),), dynamo=True, verbose=False
    )
    assert program is not None
    content = program.model_proto.SerializeToString()
    assert b"tracing.py" in content
    assert any(
        field.name == "metadata_props" for m in messages(program.model_proto) for field, _ in m.ListFields()
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_weights_are_inside_the_file(exported: Exported, name: str) -> None:
    model = onnx.load(model_path(exported, name), load_external_data=False)
    assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) > 1)
    networks = sum(p.numel() for p in exported[name].served.parameters() if p.dim() > 1)
    assert networks <= weights <= networks + 2  # scale and shift


def test_pixels_are_normalised_as_the_specification_says() -> None:
    spec = InputSpec(channels=3, height=4, width=5, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    class Means(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((-2, -1))  # [N, 3]

    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    logits = tracing.ServedNetwork(Means(), spec).logits(torch.tensor(images)).numpy()
    wanted = ((images / 255 - spec.mean) / spec.std).mean(axis=(1, 2))  # [N, 3], double precision
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)
    probabilities = tracing.ServedNetwork(Means(), spec)(torch.tensor(images)).numpy()
    exponentials = np.exp(wanted)
    np.testing.assert_allclose(
        probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=0, atol=1e-5
    )


def test_any_batch_size_runs_though_two_images_were_exported(exported: Exported) -> None:
    one = exported["lenet5-digits"]
    session = onnxruntime.InferenceSession(one.folder / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (67, 32, 32, 1), np.uint8)
    (whole,) = session.run(None, {"images": images})
    assert whole.shape == (67, 10)
    with torch.no_grad():
        np.testing.assert_allclose(whole, one.served(torch.tensor(images)).numpy(), rtol=0, atol=1e-5)
    for count in (1, 5):
        (part,) = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(part, whole[:count], rtol=0, atol=1e-6)


class Ranged(nn.Module):
    """Numbers the images of a batch."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)[:, :10] + torch.arange(pixels.shape[0])[:, None]


class Picked(nn.Module):
    """Picks values by a list of indices."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)[:, torch.tensor([1, 0, 3])]


class Sized(nn.Module):
    """Makes a tensor as large as the batch."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)[:, :10] + torch.ones(pixels.shape[0], 10)


@pytest.mark.parametrize(
    ("network", "faults"),
    [
        (Ranged(), "Range, Shape, Slice, Squeeze, Unsqueeze not allowed$"),
        (Picked(), "GatherND not allowed; 3 Transpose instead of 1$"),
        (Sized(), "Expand, Shape, Slice.*not allowed$"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten()), ".*GatherND.* not allowed"),
    ],
)
def test_what_no_artifact_may_hold_is_refused_by_name(
    network: nn.Module, faults: str, tmp_path: Path
) -> None:
    with pytest.raises(tracing.GraphError, match=rf"^the graph is not an artifact's: {faults}") as caught:
        tracing.to_onnx(tracing.ServedNetwork(network, GREY), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_adaptive_pool_to_the_maps_own_size_leaves_nothing_behind(tmp_path: Path) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    tracing.to_onnx(tracing.ServedNetwork(network, GREY), tmp_path / "model.onnx")
    wanted = Counter(WRAPPING | {"Relu": 1, "AveragePool": 1, "Reshape": 1})  # the second pool halves
    assert operators(tmp_path / "model.onnx") == wanted


class Viewed(nn.Module):
    """Flattens by the batch's size, which becomes a plain Reshape."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.view(pixels.shape[0], -1)


def test_a_view_by_the_size_of_the_batch_is_no_shape_arithmetic(tmp_path: Path) -> None:
    tracing.to_onnx(tracing.ServedNetwork(Viewed(), GREY), tmp_path / "model.onnx")
    assert operators(tmp_path / "model.onnx") == Counter(WRAPPING | {"Reshape": 1})


def test_no_weight_outlives_its_network_in_the_exporter(tmp_path: Path) -> None:
    linear = nn.Linear(64, 10)
    weight = weakref.ref(linear.weight)
    tracing.to_onnx(tracing.ServedNetwork(nn.Sequential(nn.Flatten(), linear), GREY), tmp_path / "model.onnx")
    del linear
    gc.collect()
    assert weight() is None


class TwoImages(nn.Module):
    """Works for two images and no other number."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(2, 64)


class Averaged(nn.Module):
    """Gives one answer, however many images there are."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1).mean(0, keepdim=True)


@pytest.mark.parametrize("network", [TwoImages(), Averaged()])
def test_a_fixed_batch_is_refused(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(tracing.GraphError, match=r"^the graph's signature is .*, not .*'N'"):
        tracing.to_onnx(tracing.ServedNetwork(network, GREY), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_answers_every_pixel_is_refused(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 10, kernel_size=1)
    with pytest.raises(tracing.GraphError, match=r"^the graph's signature is .*\['N', 10, 8, 8\].*, not .*"):
        tracing.to_onnx(tracing.ServedNetwork(network, GREY), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "label_count"),
    [
        (GREY.resized(9, 8), 64),
        (GREY.resized(8, 9), 64),
        (InputSpec(channels=3, height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3), 64),
        (GREY, 63),
    ],
    ids=["height", "width", "channels", "labels"],
)
def test_a_graph_that_does_not_fit_its_specification_is_refused_in_one_line(
    spec: InputSpec, label_count: int, tmp_path: Path
) -> None:
    tracing.to_onnx(tracing.ServedNetwork(Viewed(), GREY), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    tracing.check_signature(model, (GREY.height, GREY.width, GREY.channels), 64)
    wanted = ["N", spec.height, spec.width, spec.channels]
    with pytest.raises(tracing.GraphError) as caught:
        tracing.check_signature(model, (spec.height, spec.width, spec.channels), label_count)
    assert str(caught.value) == (
        "the graph's signature is "
        "[('images', 'UINT8', ['N', 8, 8, 1]), ('probabilities', 'FLOAT', ['N', 64])], not "
        f"[('images', 'UINT8', {wanted}), ('probabilities', 'FLOAT', ['N', {label_count}])]"
    )


def test_a_graph_that_is_no_valid_onnx_is_refused_in_one_line(tmp_path: Path) -> None:
    tracing.to_onnx(tracing.ServedNetwork(Viewed(), GREY), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(tracing.GraphError, match=r"^the graph is not valid ONNX: .*Nonsense") as caught:
        tracing.check(model.SerializeToString())
    assert "\n" not in str(caught.value)


class Undecided(nn.Module):
    """Looks at its numbers before it decides what to do."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        flat = pixels.flatten(1)
        return flat if pixels.sum() > 0 else -flat


def test_what_torch_cannot_export_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        tracing.GraphError, match=r"^torch cannot export the network: .*data-dependent"
    ) as caught:
        tracing.to_onnx(tracing.ServedNetwork(Undecided(), GREY), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Impossible(nn.Module):
    """Fails without a word."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raise AssertionError


def test_a_network_that_fails_without_a_word_is_refused_by_the_name_of_its_error(tmp_path: Path) -> None:
    with pytest.raises(tracing.GraphError, match=r"^torch cannot export the network: \w+"):
        tracing.to_onnx(tracing.ServedNetwork(Impossible(), GREY), tmp_path / "model.onnx")
