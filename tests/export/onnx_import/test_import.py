"""A classifier that came as ONNX is published, held against the file as it came, and served."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from artifact import golden, layout, manifest
from export import pipeline
from export.onnx_import.conversion import ImportRequest, OnnxImportError
from export.publishing.release import NoPicturesError
from modelzoo.v1 import manifest_pb2
from tests.export.onnx_import.onnx_files import (
    IMAGENET,
    K,
    convolutional,
    saved,
    softmax,
    some_images,
    theirs,
)


def test_an_import_is_published_with_the_file_as_its_reference_and_served(
    tmp_path: Path, start_server
) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    request = ImportRequest(**IMAGENET, labels=("ant", "bee", "cat", "dog", "elk"))
    one = pipeline.import_(path, request, repository=tmp_path / "zoo", name="pets-import")
    assert one.folder == tmp_path / "zoo" / "pets-import" / "1"
    described = manifest.read(one.folder)
    assert described.reference == "ONNX Runtime"
    assert described.weights == manifest_pb2.Weights(
        origin=manifest_pb2.ORIGIN_IMPORTED,
        source="theirs.onnx",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    assert not described.HasField("paper")
    assert described.deviations[-1] == "a softmax makes probabilities of the file's scores"
    assert not described.precisions[0].HasField("accuracy")
    stored = golden.read(one.folder / layout.GOLDEN)
    np.testing.assert_allclose(
        stored.probabilities, softmax(theirs(path, stored.images, request)), rtol=0, atol=1e-6
    )

    images = some_images(3, 8, 8, 3)
    with start_server(repository=tmp_path / "zoo").client() as client:
        answers = client.classify("pets-import", list(images), top_k=K)
        [status] = client.list_models()
    assert not status.HasField("accuracy_ratio")
    for labels, expected in zip(answers, softmax(theirs(path, images, request)), strict=True):
        assert labels[0].text == ("ant", "bee", "cat", "dog", "elk")[expected.argmax()]
        assert labels[0].probability == pytest.approx(expected.max(), abs=1e-5)


def test_an_import_gets_other_precisions_when_somebody_takes_the_blame(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    one = pipeline.import_(
        path,
        ImportRequest(**IMAGENET),
        repository=tmp_path / "zoo",
        name="pets-import",
        precisions=("fp32", "fp16"),
        ungated=True,
    )
    assert [(precision.name, precision.ungated) for precision in one.manifest.precisions] == [
        ("fp32", False),
        ("fp16", True),
    ]


def test_int8_of_an_import_needs_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    with pytest.raises(NoPicturesError):
        pipeline.import_(
            path, ImportRequest(**IMAGENET), repository=tmp_path / "zoo", name="pets", precisions=("int8",)
        )
    assert not (tmp_path / "zoo").exists()


def test_what_is_no_classifier_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(b"not a graph")
    with pytest.raises(OnnxImportError):
        pipeline.import_(
            tmp_path / "theirs.onnx", ImportRequest(), repository=tmp_path / "zoo", name="pets-import"
        )
    assert not (tmp_path / "zoo").exists()
