"""Every architecture, as its paper has it: exported, proved, counted and opened by the server."""

import gc
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from export.graph import macs, tracing, verification
from modelzoo.v1 import manifest_pb2
from server.runtime import device
from server.runtime.network import OnnxNetwork
from tests.operators import operators
from zoo.catalog import CATALOG, find

pytestmark = pytest.mark.slow  # 5 to 60 s each on two cores

LABELS = 1000
BATCH_SIZES = (1, 2, 3, 7)
# Of DenseNet's, only the ones of a concatenation stay: every layer's first, three transitions', the last.
UNFOLDED = {"densenet121": 58 + 4, "densenet161": 78 + 4, "densenet169": 82 + 4, "densenet201": 98 + 4}
RELATIVE = 1e-3  # of a probability: in its logarithm, so that a label of 0.0001 is as good as one of 0.9


@pytest.fixture(autouse=True)
def one_at_a_time() -> Iterator[None]:
    """Give back what the exporter holds in circles: the weights of the network before."""
    yield
    gc.collect()


def awake(network: nn.Module, images: torch.Tensor) -> None:
    """Give batch normalisation numbers that folding can get wrong, and that keep deep networks in range."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of this one batch
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    network.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        network(images)
    network.eval()


def pictures(height: int, width: int, channels: int) -> np.ndarray:
    """Seven pictures of coarse and fine patches, from dark to bright; noise alone looks all the same."""
    rng = np.random.default_rng(0)
    grown = [
        np.kron(rng.integers(0, 128, (7, side, side, channels)), np.ones((1, tall, wide, 1), int))
        for side in (4, 23)
        for tall, wide in [(-(-height // side), -(-width // side))]
    ]
    return sum(part[:, :height, :width] for part in grown).astype(np.uint8)  # [7, H, W, C]


@pytest.mark.parametrize("name", [spec.name for spec in CATALOG])
def test_architecture_exports_proves_itself_and_is_served(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = find(name)
    shape = spec.input
    served = tracing.ServedNetwork(spec.network(LABELS), shape)
    images = pictures(shape.height, shape.width, shape.channels)
    awake(served, torch.tensor(images[::3]))
    with torch.no_grad():
        expected = served(torch.tensor(images)).numpy()
    spread = np.ptp(np.log(expected), axis=0).max()
    assert spread > 20 * RELATIVE  # else the comparison could not tell one image from another

    path = tmp_path / "model.onnx"
    tracing.to_onnx(served, path)
    del served
    run = verification.open_on_cpu(path)
    for count in BATCH_SIZES:
        answers = run(images[:count])
        np.testing.assert_allclose(answers, expected[:count], rtol=RELATIVE)
        assert answers.argmax(axis=1).tolist() == expected[:count].argmax(axis=1).tolist()
    del run

    manifest = manifest_pb2.Manifest(
        input=manifest_pb2.Input(height=shape.height, width=shape.width, channels=shape.channels),
        label_count=LABELS,
    )
    network = OnnxNetwork(path, manifest, device.choose("cpu", threads=2).device, [7])
    np.testing.assert_allclose(network.infer(list(images[5:])), expected[5:], rtol=RELATIVE)
    del network

    words = (b"site-packages", b'File "', b"Traceback", b"torch.nn.modules", str(Path.cwd()).encode())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert [word for word in words if content.find(word) >= 0] == []
    assert operators(path)["BatchNormalization"] == UNFOLDED.get(name, 0)
    if name in models.list_models():  # torchvision has counted its own, in units of 1e9
        counted = models.get_model_weights(name).DEFAULT.meta["_ops"]
        assert macs.count(path) / 1e9 == pytest.approx(counted, rel=0.02)
    path.unlink()  # all of them together are 5 GB
