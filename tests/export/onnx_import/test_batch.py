"""A batch that was fixed at one becomes free, every picture answered as if alone; or it is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.export.onnx_import.onnx_files import (
    assert_answers_as_the_file,
    constant,
    convolutional,
    ours,
    refused,
    saved,
    signature,
    some_images,
    wrapped,
)

RESHAPES: dict[str, list[onnx.NodeProto]] = {
    "flatten": [helper.make_node("Flatten", ["p"], ["f"], axis=1)],
    "to rows": [helper.make_node("Reshape", ["p", "to_rows"], ["f"])],
    "to a fixed row": [helper.make_node("Reshape", ["p", "to_seven"], ["f"])],
    "verbatim": [helper.make_node("Reshape", ["p", "to_seven"], ["f"], allowzero=1)],
    "from a node": [
        helper.make_node("Constant", [], ["row"], value=constant("", 1, 7, kind=np.int64)),
        helper.make_node("Reshape", ["p", "row"], ["f"]),
    ],
    "from a node of integers": [
        helper.make_node("Constant", [], ["row"], value_ints=[1, -1]),
        helper.make_node("Reshape", ["p", "row"], ["f"]),
    ],
    "by its own size": [
        helper.make_node("Constant", [], ["zero"], value=constant("", 0, kind=np.int64)),
        helper.make_node("Constant", [], ["rest"], value=constant("", -1, kind=np.int64)),
        helper.make_node("Shape", ["p"], ["size"]),
        helper.make_node("Gather", ["size", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["row"], axis=0),
        helper.make_node("Reshape", ["p", "row"], ["f"]),
    ],
}


@pytest.mark.parametrize("how", RESHAPES)
def test_a_batch_that_was_fixed_at_one_becomes_free(how: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(RESHAPES[how]), sides=(1, 3, 8, 8))
    found, target = wrapped(path)
    images = some_images(7, 8, 8, 3)
    assert_answers_as_the_file(target, path, images)
    assert signature(target) == ours()
    rewritten = 0 if how in {"flatten", "by its own size"} else 1
    assert f"any number of images; the file took one ({rewritten} reshapes were rewritten)" in found.changes


def test_a_shape_shared_with_weights_is_changed_for_the_pictures_only(tmp_path: Path) -> None:
    nodes, tensors = convolutional(RESHAPES["to a fixed row"])
    nodes.insert(-1, helper.make_node("Reshape", ["seven", "to_seven"], ["row_of_seven"]))
    nodes.insert(-1, helper.make_node("Add", ["f", "row_of_seven"], ["g"]))
    nodes[-1].input[0] = "g"
    path = saved(
        tmp_path / "theirs.onnx", nodes, [*tensors, constant("seven", *range(7))], sides=(1, 3, 8, 8)
    )
    _, target = wrapped(path)
    images = some_images(4, 8, 8, 3)
    assert_answers_as_the_file(target, path, images)


@pytest.mark.parametrize(
    ("row", "fixed", "message"),
    [
        # Which axis is the batch is lost before the reshape.
        (
            [
                helper.make_node("Squeeze", ["p"], ["seven"]),
                helper.make_node("Reshape", ["seven", "to_rows"], ["f"]),
            ],
            1,
            r"^wrapped, (and with a free batch|it does not answer a batch of 1 as .*): ONNX Runtime",
        ),
        # Right for one picture, and nobody said that only one is meant.
        (
            [helper.make_node("Reshape", ["p", "to_seven"], ["f"])],
            "batch",
            r"^wrapped, it does not answer a batch of 2 as the file answers single pictures: ONNX Runtime",
        ),
        # A batch of 7 k pictures is also one of 7 k rows.
        (
            [
                helper.make_node("Transpose", ["p"], ["turned"], perm=[1, 0, 2, 3]),
                helper.make_node("Reshape", ["turned", "to_any_seven"], ["f"]),
            ],
            1,
            r"^wrapped, it does not answer a batch of 2 as .*: it is off by 0\.",
        ),
    ],
)
def test_a_batch_that_cannot_be_made_free_is_refused(
    row: list[onnx.NodeProto], fixed: int | str, message: str, tmp_path: Path
) -> None:
    refused(saved(tmp_path / "theirs.onnx", *convolutional(row), sides=(fixed, 3, 8, 8)), message)


def test_pictures_that_influence_each_other_are_refused(tmp_path: Path) -> None:
    nodes, tensors = convolutional()
    nodes[-1].output[0] = "s"
    nodes += [
        helper.make_node("ReduceMean", ["s"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Add", ["s", "m"], ["y"]),
    ]
    refused(
        saved(tmp_path / "theirs.onnx", nodes, tensors),
        r"batch of 2 as .*: it is off by 0\.",
    )
