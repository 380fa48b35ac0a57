"""A small artifact whose every file is real, for tests that damage it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artifact import golden, layout, manifest
from modelzoo.v1 import manifest_pb2

Fill = Callable[[Path], manifest_pb2.Manifest]


def fill(folder: Path) -> manifest_pb2.Manifest:
    """Write the files of an artifact and describe them, all but the manifest itself."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    (folder / "labels.txt").write_text("cat\ndog\nçedilla\n", "utf-8")
    (folder / "model.onnx").write_bytes(generator.bytes(3_000_000))  # more than a chunk of the hash
    images = generator.integers(0, 256, (4, 5, 6, 3), np.uint8)
    golden.write(folder / "golden.npz", golden.Golden(images, np.eye(4, 3, dtype=np.float32)))
    (folder / layout.CARD).mkdir()
    (folder / layout.CARD / "README.md").write_text("# net-pets\n")
    return manifest_pb2.Manifest(
        name="net-pets",
        version=1,
        architecture="net",
        paper=manifest_pb2.Paper(title="Nets", authors="Nobody", year=1998, link="https://doi.org/10.1/1"),
        deviations=["smaller"],
        parameters=61_706,
        input=manifest_pb2.Input(height=5, width=6, channels=3, mean=[0.1, 0.2, 0.3], std=[1.0, 0.5, 0.25]),
        preprocessing=manifest_pb2.Preprocessing(
            resize_shorter_px=7, interpolation=manifest_pb2.INTERPOLATION_BICUBIC
        ),
        labels=manifest.describe_file(folder / "labels.txt"),
        label_count=3,
        weights=manifest_pb2.Weights(
            origin=manifest_pb2.ORIGIN_TRAINED, dataset="pets", seed=7, epochs=3, best_epoch=2, training_s=1.5
        ),
        macs=416_520,
        reference="PyTorch",
        precisions=[
            manifest_pb2.Precision(
                name="fp32",
                file=manifest.describe_file(folder / "model.onnx"),
                accuracy=manifest_pb2.Accuracy(split="held out", images=10, correct=9),
                latencies=[
                    manifest_pb2.Latency(provider=golden.CPU_PROVIDER, batch_size=8, median_s=0.001),
                ],
                tolerances=[
                    manifest_pb2.Tolerance(provider=golden.CPU_PROVIDER, max_abs_difference=1e-5),
                ],
            )
        ],
        golden=manifest.describe_file(folder / "golden.npz"),
        tools={"torch": "2", "onnx": "1"},
    )


@pytest.fixture
def fill_folder() -> Fill:
    """Fills a folder with an artifact's files and describes them."""
    return fill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact in its place, manifest and all."""
    folder = tmp_path / "models" / "net-pets" / "1"
    manifest.write(fill(folder), folder)
    return folder
