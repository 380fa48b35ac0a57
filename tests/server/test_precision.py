"""Which file of a model serves: fp32 unless something else was asked for, and never int8 unasked."""

import numpy as np
import pytest

from artifact import golden, manifest
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.repository import loading
from server.runtime.device import Device

CPU, CUDA = Device("cpu", None, 1), Device("cuda:0", 0, 1)
MODEL, OTHER = "lenet5-digits", "simple_cnn-digits"


def described(*names: str, refused: str = "") -> manifest_pb2.Manifest:
    one = manifest_pb2.Manifest(precisions=[manifest_pb2.Precision(name=name) for name in names])
    if refused:
        one.refusals.add(precision=refused, reason=f"{refused}: 340 of 360 right")
    return one


@pytest.mark.parametrize(
    ("device", "names", "wanted", "chosen"),
    [
        (CPU, ("fp32", "fp16", "int8"), "auto", "fp32"),
        (CUDA, ("fp32", "fp16", "int8"), "auto", "fp16"),
        (CUDA, ("fp32", "int8"), "auto", "fp32"),
        (CPU, ("fp32", "fp16", "int8"), "int8", "int8"),
        (CUDA, ("fp32", "fp16"), "fp32", "fp32"),
    ],
)
def test_a_precision_is_chosen_by_device_and_wish(
    device: Device, names: tuple[str, ...], wanted: str, chosen: str
) -> None:
    assert loading.choose_precision(described(*names), wanted, device).name == chosen


def test_what_is_not_published_is_refused_with_the_reason_of_the_manifest() -> None:
    with pytest.raises(loading.MissingPrecisionError) as caught:
        loading.choose_precision(described("fp32", refused="int8"), "int8", CPU)
    assert str(caught.value) == "int8 is not published: int8: 340 of 360 right"
    with pytest.raises(loading.MissingPrecisionError, match=r"published are fp32, fp16$"):
        loading.choose_precision(described("fp32", "fp16"), "int8", CPU)


@pytest.mark.serves(MODEL, OTHER)
def test_single_models_serve_in_a_precision_of_their_own(start_server, exported) -> None:
    running = start_server(model_precisions={MODEL: "int8", "nobody-digits": "int8"})
    assert '"event": "no_such_model"' in running.log.getvalue()
    stored = golden.read(exported[MODEL].folder / "golden.npz")
    with running.client() as client:
        served = {model.name: model.precision for model in client.list_models()}
        assert (served[MODEL], served[OTHER]) == ("int8", "fp32")
        answers = client.classify(MODEL, list(stored.images), top_k=10)
    got = np.zeros_like(stored.probabilities)
    for row, labels in enumerate(answers):
        for label in labels:
            got[row, label.index] = label.probability
    np.testing.assert_allclose(got, stored.own["int8"], atol=1e-5)  # the int8 file's own answers
    assert np.abs(got - stored.probabilities).max() > 1e-5  # which are not PyTorch's


def test_a_model_without_the_precision_asked_for_fails_and_the_others_serve(
    start_server, scratch_repository
) -> None:
    folder = scratch_repository / MODEL / "1"
    one = manifest.read(folder)
    del one.precisions[2]
    one.refusals.add(precision="int8", reason="int8: 340 of 360 right")
    manifest.write(one, folder)
    running = start_server(repository=scratch_repository, precision="int8")
    assert running.ready == [OTHER, "two_block_cnn-digits"]
    with running.client() as client:
        [failed] = [model for model in client.list_models() if model.name == MODEL]
    assert failed.state == classifier_pb2.MODEL_STATE_FAILED
    assert failed.reason == "int8 is not published: int8: 340 of 360 right"


def test_accuracy_that_was_not_measured_is_called_so(start_server, scratch_repository) -> None:
    folder = scratch_repository / MODEL / "1"
    one = manifest.read(folder)
    for precision in one.precisions:
        precision.ClearField("accuracy")
    manifest.write(one, folder)
    running = start_server(repository=scratch_repository)
    with running.client() as client:
        found = {model.name: model for model in client.list_models()}
    assert not found[MODEL].HasField("accuracy_ratio")
    assert 0.5 < found[OTHER].accuracy_ratio <= 1
    assert '"accuracy": "not measured"' in running.log.getvalue()
