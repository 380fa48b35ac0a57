"""Whoever rides with an image: it gets the answer that it gets alone, with real ONNX Runtime."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import pipeline
from modelzoo.v1 import manifest_pb2
from server.batching.batches import Batch
from server.batching.submissions import Submission
from server.errors import InferenceError
from server.runtime.device import Device
from server.runtime.network import OnnxNetwork

SIDE, LABELS, LARGEST = 12, 7, 16
MARK = 137
CPU = Device("cpu", None, 2)


class Failing:
    """A network whose next batch can be made to fail."""

    def __init__(self, network: OnnxNetwork) -> None:
        self.network = network
        self.fails = False

    def infer(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        if self.fails:
            raise RuntimeError("injected")
        return self.network.infer(rows)


def graph(path: Path) -> None:
    """Write a convolutional network that answers no number where the first pixel is `MARK`."""
    chance = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(chance.normal(0, 0.3, shape).astype(np.float32), name)

    def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    nodes = [
        node("Transpose", "images", "planes", perm=[0, 3, 1, 2]),
        node("Cast", "planes", "floats", to=TensorProto.FLOAT),
        node("Div", "floats full", "scaled"),
        node("Conv", "scaled kernels", "convolved", pads=[1, 1, 1, 1]),
        node("Relu", "convolved", "bent"),
        node("MaxPool", "bent", "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "pooled more_kernels", "deep"),
        node("GlobalAveragePool", "deep", "average"),
        node("Flatten", "average", "features"),
        node("Gemm", "features weights bias", "logits"),
        # (first - MARK) / (first - MARK) is exactly one, or no number.
        node("Slice", "floats zeros ones axes", "corner"),
        node("Flatten", "corner", "first"),
        node("Sub", "first mark", "distance"),
        node("Div", "distance distance", "one"),
        node("Mul", "logits one", "marked"),
        node("Softmax", "marked", "probabilities", axis=1),
    ]
    constants = [
        numpy_helper.from_array(np.float32([255]), "full"),
        numpy_helper.from_array(np.float32([MARK]), "mark"),
        *(
            numpy_helper.from_array(np.int64(values), name)
            for name, values in (("zeros", [0] * 3), ("ones", [1] * 3), ("axes", [1, 2, 3]))
        ),
        constant("kernels", 16, 3, 3, 3),
        constant("more_kernels", 32, 16, 3, 3),
        constant("weights", 32, LABELS),
        constant("bias", LABELS),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    answers = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", LABELS])
    made = helper.make_graph(nodes, "mates", [images], [answers], constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def pictures(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Make ordinary and extreme pictures; none is marked."""
    chance = np.random.default_rng(1)
    ordinary = [chance.integers(0, 256, shape, np.uint8) for _ in range(40)]
    for picture in ordinary:
        picture[0, 0, 0] = 5
    board = np.indices(shape[:2]).sum(axis=0) % 2 * 255
    checkerboard = np.repeat(board[:, :, None], shape[2], axis=2).astype(np.uint8)
    return [*ordinary, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), checkerboard]


def marked(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Mark copies of some pictures, extreme ones among them."""
    copies = [picture.copy() for picture in pictures[-5:]]
    for copy in copies:
        copy[0, 0, 0] = MARK
    return copies


class Ride:
    """Sends pictures through batches of random mates.

    Args:
        good: pictures that get an answer.
        bad: pictures that get none.

    Attributes:
        ran: batches.
        worst: the largest difference from riding alone.
    """

    def __init__(self, hand, network: Failing, good: list[np.ndarray], bad: list[np.ndarray]) -> None:
        self.ran, self.worst = 0, 0.0
        self._chance = random.Random(0)
        self._hand = hand
        self._network = network
        self._good, self._bad = good, bad
        self._alone = {id(picture): network.infer([picture])[0] for picture in good}
        self._queue = hand.add("m", {LARGEST: 0.01}, network=network)
        self._queue.label_count = len(self._alone[id(good[0])])
        self._asked: list[tuple[Submission, list[np.ndarray]]] = []
        self._hurt: set[Submission] = set()

    def go(self, batches: int) -> None:
        while self.ran < batches:
            self._ask()
            while isinstance(batch := self._hand.take(), Batch):
                self._run(batch)
            self._compare()

    def _ask(self) -> None:
        for _ in range(self._chance.randint(1, 6)):
            count = self._chance.choice([1, 1, 1, 2, 3, 5, LARGEST, 20])
            if self._queue.waiting + count > self._queue.max_queue_size:
                continue
            pictures = [self._choose() for _ in range(count)]
            self._asked.append((self._hand.batcher.submit(self._queue, pictures), pictures))
        for future, _ in self._asked:
            if self._chance.random() < 0.1:
                future.cancel()

    def _choose(self) -> np.ndarray:
        return self._chance.choice(self._bad if self._bad and self._chance.random() < 0.02 else self._good)

    def _run(self, batch: Batch) -> None:
        self.ran += 1
        self._network.fails = self._chance.random() < 0.05
        if self._network.fails:
            self._hurt |= {part.submission for part in batch.slices}
        batch.start()
        self._hand.clock.now_s += 0.01
        if self._chance.random() < 0.1:  # a caller that leaves while its batch runs
            self._chance.choice(batch.slices).submission.cancel()
        batch.finish()
        self._hand.turn()

    def _compare(self) -> None:
        for future, pictures in self._asked:
            if future.cancelled():
                continue
            if future in self._hurt or any(id(picture) not in self._alone for picture in pictures):
                assert isinstance(future.exception(), InferenceError)
                continue
            wanted = np.stack([self._alone[id(picture)] for picture in pictures])
            self.worst = max(self.worst, float(np.abs(future.result().probabilities - wanted).max()))
        self._asked.clear()
        self._hurt.clear()


@pytest.fixture
def with_marks(tmp_path: Path) -> Callable[[], Failing]:
    graph(tmp_path / "model.onnx")
    shape = manifest_pb2.Input(height=SIDE, width=SIDE, channels=3)
    described = manifest_pb2.Manifest(input=shape, label_count=LABELS)
    return Failing(OnnxNetwork(tmp_path / "model.onnx", described, CPU, [LARGEST]))


def test_a_marked_picture_really_gets_no_number_and_another_a_distribution(with_marks) -> None:
    good = pictures((SIDE, SIDE, 3))
    answers = with_marks.infer([good[0], marked(good)[0], good[1]])
    assert np.isnan(answers[1]).all()
    np.testing.assert_allclose(answers[[0, 2]].sum(axis=1), 1, atol=1e-6)
    assert np.abs(answers[0] - answers[2]).max() > 1e-3  # it does tell pictures apart


@pytest.mark.parametrize("batches", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mates_do_not_matter(by_hand, with_marks, batches: int) -> None:
    good = pictures((SIDE, SIDE, 3))
    with by_hand() as hand:
        ride = Ride(hand, with_marks, good, marked(good))
        ride.go(batches)
    assert ride.worst < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5-digits", "two_block_cnn-digits"])
def test_mates_do_not_matter_to_a_trained_network(
    by_hand, exported: dict[str, pipeline.Exported], name: str
) -> None:
    one = exported[name]
    network = OnnxNetwork(one.folder / "model.onnx", one.manifest, CPU, [LARGEST])
    shape = one.manifest.input
    good = pictures((shape.height, shape.width, shape.channels))
    with by_hand() as hand:
        ride = Ride(hand, Failing(network), good, [])
        ride.go(2_000)
    assert ride.worst < 1e-6
