"""Whatever is in a file, it is imported or refused in one line: no other exception, nothing half-written."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper

from export.onnx_import.conversion import ImportRequest
from tests.export.onnx_import import mutations
from tests.export.onnx_import.onnx_files import constant, convolutional, outcome, saved
from tests.export.onnx_import.test_batch import RESHAPES


def originals(folder: Path) -> list[bytes]:
    """One file of each kind: weights as nodes, functions, a fixed batch, an old opset, several outputs."""
    nodes, tensors = convolutional(last="Softmax")
    weights = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    calls, own = convolutional()
    calls[1] = helper.make_node("Halve", ["c"], ["r"], domain="own")
    half = helper.make_node("Constant", [], ["h"], value=constant("", 0.5))
    body = [half, helper.make_node("Mul", ["a", "h"], ["b"])]
    halve = helper.make_function("own", "Halve", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    path = folder / "original.onnx"
    fixed = (1, 3, 8, 8)
    return [
        saved(path, *convolutional()).read_bytes(),
        saved(path, [*weights, *nodes], []).read_bytes(),
        saved(path, *convolutional(RESHAPES["by its own size"]), sides=fixed).read_bytes(),
        saved(path, *convolutional(RESHAPES["from a node"]), sides=fixed).read_bytes(),
        saved(path, *convolutional(last="Softmax"), opset=9, ir_version=4).read_bytes(),
        saved(path, *convolutional(last="Sigmoid"), outputs=("y", "r")).read_bytes(),
        saved(path, calls, own, functions=(halve,), domains=("own",)).read_bytes(),
    ]


def imported(content: bytes, folder: Path, request: ImportRequest) -> str:
    source, target = folder / "mutated.onnx", folder / "model.onnx"
    source.write_bytes(content)
    target.unlink(missing_ok=True)
    return outcome(source, target, request)


def run(change: Callable[[bytes, random.Random], bytes], count: int, seed: int, folder: Path) -> Counter[str]:
    random_, files = random.Random(seed), originals(folder)
    requests = [ImportRequest(), ImportRequest(output="y", activation="sigmoid")]
    return Counter(
        imported(change(random_.choice(files), random_), folder, random_.choice(requests))
        for _ in range(count)
    )


@pytest.mark.parametrize("change", [mutations.of_bytes, mutations.of_fields])
@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_imported_or_refused_in_one_line(
    change: Callable[[bytes, random.Random], bytes], count: int, tmp_path: Path
) -> None:
    ended = run(change, count, count, tmp_path)
    assert ended["imported"] > 0.1 * count  # not all of them are refused at the first look
    assert ended["refused"] > 0.1 * count
