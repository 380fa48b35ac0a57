"""What makes probabilities of scores: looked up, or said where it cannot be; never applied twice."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from artifact import manifest
from export import pipeline
from export.graph import precision, verification
from export.onnx_import.conversion import ImportRequest
from tests.export.onnx_import.onnx_files import (
    K,
    constant,
    convolutional,
    refused,
    saved,
    softmax,
    some_images,
    theirs,
    weights,
    wrapped,
)
from tests.operators import operators

MULTI_LABEL = "labels are independent (multi-label): the probabilities of a picture need not sum to 1"


def sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def binary(path: Path, last: str = "", squeezed: bool = False) -> Path:
    """A classifier of one output, [N, 1] or [N]; bright pictures have scores above 0, dark ones below."""
    nodes, tensors = convolutional()
    nodes[-1] = helper.make_node("Gemm", ["f", "v", "b"], ["score"], transB=1)
    brightness = numpy_helper.from_array(np.full((7, 3, 3, 3), 1 / 27, np.float32), "w")
    tensors = [
        brightness,
        numpy_helper.from_array(np.full((1, 7), 8 / 7, np.float32), "v"),
        constant("b", -4.0),
    ]
    end = "score"
    if squeezed:
        nodes.append(helper.make_node("Squeeze", [end, "one"], ["squeezed"]))
        tensors.append(constant("one", 1, kind=np.int64))
        end = "squeezed"
    nodes.append(helper.make_node(last or "Identity", [end], ["y"]))
    return saved(path, nodes, tensors)


def assert_answers(target: Path, images: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the pictures differ


def test_a_file_that_ends_in_a_sigmoid_is_served_as_it_is_when_that_is_meant(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(last="Sigmoid"))
    refused(path, r"^it ends in a Sigmoid, .*: say which activation is meant, sigmoid \(.*\) or softmax ")
    images = some_images(3, 8, 8, 3)
    sigmoids = theirs(path, images, ImportRequest())
    for activation in ("sigmoid", "none"):
        found, target = wrapped(path, ImportRequest(activation=activation))
        assert_answers(target, images, sigmoids)
        assert operators(target)["Sigmoid"] == 1
        assert found.multi_label
        assert found.changes[-1] == MULTI_LABEL
    found, target = wrapped(path, ImportRequest(activation="softmax"))
    assert_answers(target, images, softmax(sigmoids))
    assert not found.multi_label


def test_scores_get_a_sigmoid_each_when_labels_are_independent(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    images = some_images(5, 8, 8, 3)
    found, target = wrapped(path, ImportRequest(activation="sigmoid"))
    assert_answers(target, images, sigmoid(theirs(path, images, ImportRequest())))
    np.testing.assert_allclose(
        found.original(images), sigmoid(theirs(path, images, ImportRequest())), rtol=0, atol=1e-6
    )
    assert found.changes[-2:] == ("a sigmoid makes probabilities of the file's scores", MULTI_LABEL)


def test_a_softmax_is_not_applied_twice(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(last="Softmax"))
    images = some_images(3, 8, 8, 3)
    for activation in ("auto", "softmax", "none"):
        found, target = wrapped(path, ImportRequest(activation=activation))
        assert_answers(target, images, theirs(path, images, ImportRequest()))
        assert operators(target)["Softmax"] == 1
        assert not found.multi_label


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize(
    ("last", "activation"), [("", "auto"), ("", "sigmoid"), ("Sigmoid", "auto"), ("Sigmoid", "sigmoid")]
)
def test_one_output_becomes_two_labels(last: str, activation: str, squeezed: bool, tmp_path: Path) -> None:
    path = binary(tmp_path / "theirs.onnx", last, squeezed=squeezed)
    images = some_images(5, 8, 8, 3)
    scores = theirs(path, images, ImportRequest()).reshape(-1, 1)
    positive = scores if last else sigmoid(scores)
    found, target = wrapped(path, ImportRequest(activation=activation))
    assert_answers(target, images, np.concatenate([1 - positive, positive], axis=1))
    np.testing.assert_allclose(found.original(images)[:, 1:], positive, rtol=0, atol=1e-6)
    assert operators(target)["Sigmoid"] == 1
    assert found.labels == ("negative", "positive")
    assert not found.multi_label
    assert (
        found.changes[-1] == "its single score p becomes two probabilities: 1 - p (negative) and p (positive)"
    )
    assert wrapped(path, ImportRequest(activation=activation, labels=("cat", "dog")))[0].labels == (
        "cat",
        "dog",
    )


def test_one_output_that_may_be_either_is_refused(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "theirs.onnx",
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("HardSigmoid", ["c"], ["h"]),
            helper.make_node("ReduceMean", ["h"], ["y"], axes=[1, 2, 3]),
        ],
        [weights("w", 4, 3, 3, 3)],
    )
    refused(path, r"^its single output may be a probability or a score: say which activation is meant, none ")
    images = some_images(4, 8, 8, 3)
    positive = theirs(path, images, ImportRequest()).reshape(-1, 1)
    _, target = wrapped(path, ImportRequest(activation="none"))
    np.testing.assert_allclose(verification.open_on_cpu(target)(images)[:, 1:], positive, rtol=0, atol=1e-6)
    target.unlink()
    refused(path, r"^it has one output, whose softmax is always 1", activation="softmax")
    refused(
        path,
        r"^it has 1 outputs, which need two labels: the negative and the positive, but there are 1 labels$",
        activation="none",
        labels=("cat",),
    )


def test_scores_that_are_no_probabilities_need_an_activation(tmp_path: Path) -> None:
    refused(
        saved(tmp_path / "theirs.onnx", *convolutional()),
        r"^its scores are no probabilities, some are not in 0\.\.1: they need a softmax, or a sigmoid$",
        activation="none",
    )
    refused(
        binary(tmp_path / "binary.onnx"),
        r"^its scores are no probabilities, some are not in 0\.\.1: they need a sigmoid$",
        activation="none",
    )


@pytest.mark.parametrize("one", [True, False])
def test_other_precisions_of_a_sigmoid_keep_signature_and_answers(one: bool, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path = binary(path) if one else saved(path, *convolutional())
    _, target = wrapped(path, ImportRequest(activation="sigmoid"))
    images = some_images(64, 8, 8, 3)
    exact = verification.open_on_cpu(target)(images)
    precision.to_fp16(target, tmp_path / "fp16.onnx")
    precision.to_int8(target, tmp_path / "int8.onnx", images)
    for name, allowed in (("fp16", 2e-3), ("int8", 2e-2)):
        answers = verification.open_on_cpu(tmp_path / f"{name}.onnx")(images)
        assert answers.dtype == np.float32
        assert np.abs(answers - exact).max() < allowed
    [last] = [node for node in onnx.load(tmp_path / "int8.onnx").graph.node if "probabilities" in node.output]
    assert last.op_type == ("Concat" if one else "Sigmoid")  # in float32


def test_a_multi_label_import_says_so_in_its_manifest_and_is_served(tmp_path: Path, start_server) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    request = ImportRequest(activation="sigmoid", labels=tuple("abcde"))
    one = pipeline.import_(path, request, repository=tmp_path / "zoo", name="tags-import")
    described = manifest.read(one.folder)
    assert described.multi_label
    assert MULTI_LABEL in described.deviations
    assert MULTI_LABEL in (one.folder / "card/README.md").read_text("utf-8")
    images = some_images(2, 8, 8, 3)
    expected = sigmoid(theirs(path, images, ImportRequest()))
    with start_server(repository=tmp_path / "zoo").client() as client:
        answers = client.classify("tags-import", list(images), top_k=K)
    for labels, row in zip(answers, expected, strict=True):
        found = {label.text: label.probability for label in labels}
        assert [found[text] for text in "abcde"] == pytest.approx(row, abs=1e-5)
