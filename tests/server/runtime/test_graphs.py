"""Captured graphs on a real GPU: every size and every set, alternating, with two batches on their way."""

from collections import deque
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from artifact import golden
from export import pipeline
from server.runtime import opening
from server.runtime.device import Device
from server.runtime.pipelined import PipelinedNetwork, Started

pytestmark = pytest.mark.gpu
SIZES = [1, 2, 4, 8, 16]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["lenet5-digits", "two_block_cnn-digits"])
def test_batches_of_any_size_get_the_answers_of_the_cpu(
    exported: dict[str, pipeline.Exported], name: str, precision: str
) -> None:
    one = exported[name]
    path = {described.name: one.folder / described.file.name for described in one.manifest.precisions}
    network = opening.open_network(Path(path[precision]), one.manifest, Device("cuda:0", 0, 1), SIZES)
    assert isinstance(network, PipelinedNetwork), getattr(network, "not_captured", "")
    plain = onnxruntime.InferenceSession(path["fp32"], providers=[golden.CPU_PROVIDER])
    tolerance = golden.TOLERANCES[precision][golden.CUDA_PROVIDER]
    shape = (one.manifest.input.height, one.manifest.input.width, one.manifest.input.channels)
    random = np.random.default_rng(0)
    flying: deque[tuple[Started, np.ndarray]] = deque()
    for _ in range(200):
        if len(flying) == network.depth:
            started, images = flying.popleft()
            wanted = plain.run(None, {"images": images})[0]
            np.testing.assert_allclose(network.finish(started), wanted, atol=tolerance)
        images = random.integers(0, 256, (int(random.integers(1, 17)), *shape), np.uint8)
        flying.append((network.start(images), images))
    while flying:
        network.finish(flying.popleft()[0])
    network.close()
