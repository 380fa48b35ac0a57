"""Weights beside the file, in its folder, are read; whatever else a file names is not."""

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from export.graph import tracing, verification
from export.onnx_import.conversion import ImportRequest
from modelzoo.v1 import manifest_pb2
from tests.export.onnx_import.onnx_files import (
    K,
    assert_answers_as_the_file,
    convolutional,
    refused,
    saved,
    some_images,
    wrapped,
)
from zoo import catalog


def external(path: Path, location: str = "theirs.data", **entries: str) -> tuple[Path, bytes]:
    """A file with its first weight in another, after 8 other bytes; and what is in there."""
    nodes, tensors = convolutional()
    content = numpy_helper.to_array(tensors[0]).tobytes()
    tensors[0].ClearField("raw_data")
    tensors[0].data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": "8", "length": str(len(content)), **entries}
    for key, value in entries.items():
        tensors[0].external_data.add(key=key, value=value)
    return saved(path, nodes, tensors), bytes(8) + content


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    path, content = external(tmp_path / "theirs.onnx", "parts/theirs.data")
    (tmp_path / "parts/theirs.data").write_bytes(content)
    found, target = wrapped(path)
    assert_answers_as_the_file(target, path, some_images(4, 8, 8, 3))
    assert found.parameters == 7 * 3 * 9 + K * 7 + K
    assert "one file; its weights were in parts/theirs.data" in found.changes
    assert found.weights == manifest_pb2.Weights(
        origin=manifest_pb2.ORIGIN_IMPORTED,
        source="theirs.onnx",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        data_files=[
            manifest_pb2.File(
                name="parts/theirs.data",
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
            )
        ],
    )


@pytest.mark.slow  # 5 s
def test_what_torch_writes_by_default_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = catalog.find("lenet5")
    network = spec.network(K, spec.input.resized(32, 32)).eval()
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(1, spec.input.channels, 32, 32),),
        path,
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    assert (tmp_path / "theirs.onnx.data").exists()
    found, target = wrapped(path, ImportRequest(mean=spec.input.mean, std=spec.input.std))
    images = some_images(3, 32, 32, spec.input.channels)
    with torch.no_grad():
        expected = tracing.ServedNetwork(network, found.input_spec).eval()(torch.tensor(images)).numpy()
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), expected, rtol=0, atol=1e-5)


def test_weights_of_what_the_scores_do_not_need_may_be_missing(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    model = onnx.load(path)
    model.graph.initializer.add(name="u", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    model.graph.initializer[-1].external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    wrapped(path)


@pytest.mark.parametrize("location", ["", "/etc/passwd", "../theirs.data", "a/../../theirs.data", "a\0b"])
def test_what_is_not_in_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path, content = external(tmp_path / "inner/theirs.onnx", location)
    (tmp_path / "theirs.data").write_bytes(content)
    refused(path, r"^its external data '.*' is not inside its folder$")


def test_links_that_leave_the_folder_are_refused_and_others_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path, content = external(folder / "theirs.onnx")
    (tmp_path / "outside.data").write_bytes(content)
    (folder / "theirs.data").symlink_to("../outside.data")
    refused(path, r"^its external data 'theirs\.data' is a link that leaves its folder$")
    (folder / "theirs.data").unlink()
    (folder / "theirs.data").symlink_to("theirs.data")
    refused(path, r"'theirs\.data' cannot be read: ")
    (folder / "theirs.data").unlink()
    (folder / "blob").write_bytes(content)
    (folder / "theirs.data").symlink_to("blob")
    wrapped(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    path, _ = external(tmp_path / "theirs.onnx")
    refused(path, r"another file beside it, and 'theirs\.data' cannot be read: No such file or directory$")
    os.mkfifo(tmp_path / "theirs.data")
    refused(path, r"^its external data 'theirs\.data' is not a regular file$")
    (tmp_path / "theirs.data").unlink()
    (tmp_path / "theirs.data").mkdir()
    refused(path, r"^(its external data|.* cannot be read).*")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": "755"}, r"^w takes 756 bytes, its external data has 755$"),
        ({"offset": "9"}, r"^its external data 'theirs\.data' has 764 bytes where 765 are needed$"),
        ({"offset": "-1"}, r"^the offset of its external data is '-1', no number of bytes$"),
        ({"length": "many"}, r"^the length of its external data is 'many', no number of bytes$"),
    ],
)
def test_places_that_do_not_fit_are_refused(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    path, content = external(tmp_path / "theirs.onnx", **entries)
    (tmp_path / "theirs.data").write_bytes(content)
    refused(path, message)


def test_more_than_a_file_may_hold_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path, _ = external(tmp_path / "theirs.onnx", length=str(1 << 32))
    model = onnx.load(path, load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.dims[:] = [1 << 30]
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "theirs.data").open("wb") as stream:
        stream.truncate(1 << 33)  # a hole
    refused(path, r"^with its external data it is larger than 2 GiB$")
    tensor.data_type = TensorProto.STRING
    path.write_bytes(model.SerializeToString())
    refused(path, r"^w is in another file, and is no tensor of numbers$")
