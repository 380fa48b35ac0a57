"""A file of weights takes no more memory than a file of its size may, whatever it says of itself."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.weights import checkpoint
from export.weights.state_dict import WeightsError

GB = 1_000_000_000


def inflating(path: Path) -> None:
    """Save zeros, and compress what torch stores as it is: 64 MB in 70 kB."""
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(16 << 20)}, stream)
    with zipfile.ZipFile(stream) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in stored.infolist():
            archive.writestr(entry.filename, stored.read(entry))


def legacy_that_claims(path: Path) -> None:
    """Save as torch did before 1.6, and let the one storage claim 6 GB."""
    stream = io.BytesIO()
    torch.save({"w": torch.zeros(1234)}, stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue()
    claimed, small = struct.pack("<q", 6 * GB // 4), struct.pack("<q", 1234)
    assert content.count(small) == 1
    path.write_bytes(
        content.replace(small, claimed).replace(b"M\xd2\x04", b"J" + struct.pack("<i", 6 * GB // 4))
    )


def safetensors_that_claim(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [6 * GB], "data_offsets": [0, 24 * GB]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def long_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def text_that_grows(path: Path) -> None:
    """A pickle that makes a list of lists of lists, each a hundred of the one before, by reference only."""
    nested: object = "x"
    for _ in range(20):
        nested = [nested] * 100
    path.write_bytes(pickle.dumps({"w": nested}, protocol=2))


def names_that_are_no_text(path: Path) -> None:
    name: object = ("x",)
    for _ in range(12):
        name = (name, name)
    torch.save({name: torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (
            inflating,
            "w.pt",
            r"has [\d,]+ bytes and would inflate to 67,\d+,\d+; torch saves tensors as they are",
        ),
        (legacy_that_claims, "w.pt", "w.pt "),
        (safetensors_that_claim, "w.safetensors", "is damaged or truncated"),
        (long_header, "w.safetensors", "is damaged or truncated"),
        (text_that_grows, "w.pt", "w.pt "),
        (names_that_are_no_text, "w.pt", "1 of its names are no text"),
    ],
)
def test_a_small_file_that_asks_for_gigabytes_gets_none(
    make: Callable[[Path], None], name: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    make(path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(WeightsError, match=message) as caught:
        checkpoint.read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_allocation_beyond_the_bound_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(32 << 20)}, path)  # 128 MB
    monkeypatch.setattr(checkpoint, "_MEMORY_BYTES", 16 << 20)
    monkeypatch.setattr(checkpoint, "_MEMORY_FILES", 0)
    with pytest.raises(WeightsError, match=r"w\.pt asks for more memory than a file of its size may"):
        checkpoint.read(path)


def test_a_sparse_file_or_a_device_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with path.open("wb") as stream:
        stream.truncate(200 * GB)
    with pytest.raises(WeightsError, match=r"w\.pt is larger than 2 GiB"):
        checkpoint.read(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(WeightsError, match=r"w\.pt cannot be read: not a regular file"):
        checkpoint.read(path)
