"""What is on disk costs a bounded time and memory before it is trusted."""

import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from artifact import files, golden, manifest
from artifact.errors import ArtifactError, DamagedFileError, GoldenError, ManifestError
from artifact.golden import Golden

LITTLE_BYTES = 8 << 20  # above anything that refusing may take


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LITTLE_BYTES
    finally:
        tracemalloc.stop()


def sparse(path: Path, size_bytes: int) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size_bytes)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_to(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


@pytest.mark.parametrize("name", ["labels.txt", "golden.npz", "model.onnx"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda path: sparse(path, 200_000_000_000),
            "is not the file that was published: 2000000",
        ),
        (lambda path: path.write_bytes(b"short"), "is not the file that was published: 5 bytes"),
        (pipe, "cannot be read: not a regular file"),
        (link_to("/dev/zero"), "cannot be read: not a regular file"),
        (link_to("/proc/self/mem"), "is not the file that was published: 0 bytes"),
        (link_to("nowhere"), "cannot be read: No such file or directory"),
    ],
    ids=["sparse", "short", "pipe", "device", "proc", "dangling"],
)
def test_sizes_are_compared_before_anything_is_hashed(
    folder: Path, name: str, damage: Callable[[Path], None], problem: str
) -> None:
    damage(folder / name)
    with little_memory(), pytest.raises(DamagedFileError, match=f"^{name} {problem}"):
        manifest.check_files(manifest.read(folder), folder)


def test_a_link_to_the_very_file_is_as_good(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")
    manifest.check_files(manifest.read(folder), folder)


@pytest.mark.parametrize("damage", [lambda path: sparse(path, 200_000_000_000), pipe, link_to("/dev/zero")])
def test_a_manifest_is_read_up_to_its_limit(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "manifest.json")
    with (
        little_memory(),
        pytest.raises(ManifestError, match=r"cannot be read: (.* at most 104857|not a)"),
    ):
        manifest.read(folder)


@pytest.mark.parametrize(
    "content",
    ["[" * 900_000, '{"deviations":' + "[" * 900_000, '{"version":' + "9" * 900_000 + "}"],
    ids=["lists", "lists in a field", "a number"],
)
def test_a_manifest_that_is_nested_or_long_is_refused_in_one_line(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ManifestError, match=r"manifest\.json is not a manifest: ") as caught:
        manifest.read(folder)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "size_bytes"), [("labels", 300_000_000), ("golden", 1 << 30), ("labels", 0), ("golden", -1)]
)
def test_a_manifest_that_announces_a_file_of_such_a_size_is_refused(
    folder: Path, field: str, size_bytes: int
) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content[field]["size_bytes"] = size_bytes
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=rf"size_bytes of '{field}.* is {size_bytes}, not in 1\.\."):
        manifest.read(folder)


@pytest.mark.parametrize("line_end", ["\n", "\x0b", "\u2028", "\r\n"])
def test_labels_are_counted_before_they_are_split(folder: Path, line_end: str) -> None:
    described = manifest.read(folder)
    (folder / "labels.txt").write_bytes((line_end * 1_000_000).encode())
    tracemalloc.start()
    with pytest.raises(DamagedFileError, match=r"labels\.txt holds more than 100,000 labels"):
        manifest.read_labels(described, folder)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16 << 20  # a million texts would take more than 50


def test_the_text_of_labels_and_each_of_them_is_bounded(folder: Path) -> None:
    described = manifest.read(folder)
    path = folder / "labels.txt"
    path.write_text(f"cat\n{'x' * 1001}\ndog\n")
    with pytest.raises(DamagedFileError, match="a label of 1,001 characters, at most 1,000 allowed"):
        manifest.read_labels(described, folder)
    sparse(path, 300_000_000)
    with little_memory(), pytest.raises(DamagedFileError, match="300000000 bytes, at most 16777216 allowed"):
        manifest.read_labels(described, folder)


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)


def array(shape: tuple[int, ...], kind: str = "|u1", content_bytes: int | None = None) -> bytes:
    """An array of zeros, as NumPy stores it; its content may be of another size."""
    stream = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    size_bytes = int(np.prod(shape)) * np.dtype(kind).itemsize if content_bytes is None else content_bytes
    return stream.getvalue() + bytes(size_bytes)


def test_a_golden_file_that_inflates_beyond_its_limit_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "golden.npz"
    monkeypatch.setattr(golden, "MAX_BYTES", 1 << 20)
    images = array((4, 1024, 1024, 3))  # 12 MB of zeros in 12 kB
    zipped(path, images=images, probabilities=array((4, 2), "<f4"))
    del images
    with (
        little_memory(),
        pytest.raises(GoldenError, match=r"declares arrays of \d+ bytes, at most"),
    ):
        golden.read(path)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"images": array((4, 8, 8, 1), content_bytes=50_000_000)}, "'images' is not as large as its shape"),
        ({"images": array((10**9, 10**9, 1, 1), content_bytes=10)}, "declares arrays of 10{18} bytes"),
        ({"images": array((-1, 8, 8, 1), content_bytes=10)}, "an array that is not stored row by row"),
        ({"images": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(9_000_000)}, r"arrays of version \(2, 0\)"),
        ({"images": b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70_000}, "cannot be read: "),
        ({f"a{index}": b"" for index in range(9)}, "9 arrays, at most 8 allowed"),
        ({"x" * 60_000: b""}, "1 arrays, at most 8 allowed"),
        ({"probabilities": array((4, 2), "<f4")}, "holds no images"),
    ],
    ids=["longer", "huge", "negative", "header 2.0", "long header", "arrays", "long name", "none"],
)
def test_what_a_golden_file_declares_is_checked_before_it_is_inflated(
    tmp_path: Path, entries: dict[str, bytes], problem: str
) -> None:
    zipped(tmp_path / "golden.npz", **entries)
    with little_memory(), pytest.raises(GoldenError, match=problem):
        golden.read(tmp_path / "golden.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_python_inflates_without_a_bound_are_refused(tmp_path: Path, method: int) -> None:
    zipped(tmp_path / "golden.npz", method, images=array((4, 1024, 1024, 3)))
    with little_memory(), pytest.raises(GoldenError, match="compressed by other than deflate"):
        golden.read(tmp_path / "golden.npz")


def test_golden_arrays_must_fit_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden.write(path, Golden(np.zeros((4, 8, 8, 1), np.uint8), np.eye(4, 3, dtype=np.float32)))
    assert golden.read(path, (8, 8, 1), 3).images.shape == (4, 8, 8, 1)
    for shape, labels in (((8, 8, 3), 3), ((8, 8, 1), 4)):
        with pytest.raises(GoldenError, match="does not fit the manifest's input and labels"):
            golden.read(path, shape, labels)


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    images = np.broadcast_to(np.uint8(0), (86, 1024, 1024, 3))
    with pytest.raises(GoldenError, match="golden arrays of 270533296 bytes, at most 268435456 allowed"):
        golden.write(tmp_path / "golden.npz", Golden(images, np.zeros((86, 2), np.float32)))


def test_a_refused_permission_names_the_user_id_and_no_path(folder: Path) -> None:
    error = PermissionError(13, "Permission denied", str(folder))
    assert files.reason(error).startswith(f"permission denied for uid {os.geteuid()}")
    assert str(folder) not in files.reason(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_which_user_id_needs_what(folder: Path) -> None:
    (folder / "model.onnx").chmod(0)
    with pytest.raises(ArtifactError, match=rf"permission denied for uid {os.geteuid()}"):
        manifest.check_files(manifest.read(folder), folder)
