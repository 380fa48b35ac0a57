"""The client asks a real server, and takes its answers and refusals apart rightly."""

import io
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from artifact.golden import Golden
from artifact.pictures import Pixels
from client import Client, ClientError, Label
from modelzoo.v1 import classifier_pb2, manifest_pb2
from server.inference import Probabilities
from server.runtime.device import Device
from server.runtime.network import OnnxNetwork

NAME = "simple_cnn-digits"
pytestmark = pytest.mark.serves(NAME)
State = classifier_pb2.ModelState


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def refused(call: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value


def test_files_and_pixels_get_pytorchs_answers_in_the_order_of_the_request(
    client: Client, digits: Golden
) -> None:
    arrays = list(digits.images)
    for pictures in (arrays, [png(image) for image in arrays], [arrays[0], *(png(i) for i in arrays[1:])]):
        answers = client.classify(NAME, pictures, top_k=10)
        assert len(answers) == 16
        for labels, expected in zip(answers, digits.probabilities, strict=True):
            assert [label.probability for label in labels] == sorted(
                (label.probability for label in labels), reverse=True
            )
            found = {label.index: label.probability for label in labels}
            assert [found[index] for index in range(10)] == pytest.approx(expected, abs=1e-5)
            assert all(label.text == str(label.index) for label in labels)


def test_top_k_is_how_many_labels_come_and_the_default_is_five(client: Client, digits: Golden) -> None:
    pictures = list(digits.images[:2])
    everything = client.classify(NAME, pictures, top_k=10)
    for top_k in (1, 3):
        assert client.classify(NAME, pictures, top_k=top_k) == [labels[:top_k] for labels in everything]
    assert client.classify(NAME, pictures) == [labels[:5] for labels in everything]


def test_a_label_is_its_text_its_index_and_its_probability(client: Client, digits: Golden) -> None:
    ((label,),) = client.classify(NAME, [digits.images[3]], top_k=1)
    best = int(digits.probabilities[3].argmax())
    assert label == Label(str(best), best, label.probability)
    assert label.probability == pytest.approx(digits.probabilities[3, best], abs=1e-5)


def test_the_whole_response_says_who_answered_and_where_the_time_went(start_server, digits: Golden) -> None:
    running = start_server(model_batch_sizes={NAME: [32]})  # whatever the machine measures
    with running.client() as client:
        response = client.classify_raw(NAME, [png(image) for image in digits.images[:3]], top_k=2)
    assert (response.model, response.version) == (NAME, 1)
    assert [len(answer.labels) for answer in response.classifications] == [2, 2, 2]
    timing = response.timing
    assert timing.batch_size >= 3
    assert timing.decode_us > 0
    assert timing.infer_us > 0


def test_an_array_that_is_no_contiguous_memory_is_sent_as_it_looks(client: Client, digits: Golden) -> None:
    turned = digits.images[0].transpose(1, 0, 2)
    assert not turned.flags.c_contiguous
    assert client.classify(NAME, [turned]) == client.classify(NAME, [turned.copy()])
    assert client.classify(NAME, [turned]) != client.classify(NAME, [digits.images[0]])


def test_the_serving_version_may_be_named(client: Client, digits: Golden) -> None:
    picture = [digits.images[0]]
    assert client.classify(NAME, picture, version=1) == client.classify(NAME, picture)
    error = refused(lambda: client.classify(NAME, picture, version=7))
    assert error.code is grpc.StatusCode.NOT_FOUND


def test_an_unknown_model_is_not_found(client: Client, digits: Golden) -> None:
    error = refused(lambda: client.classify("nobody", [digits.images[0]]))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert "nobody" in str(error)
    assert (error.field, error.retry_delay_s) == ("", None)


def test_a_refusal_names_the_wrong_field(client: Client, digits: Golden) -> None:
    picture = digits.images[0]
    wrong = {
        "images": lambda: client.classify(NAME, []),
        "images[1]": lambda: client.classify(NAME, [picture, b"no picture", b""]),
        "images[2]": lambda: client.classify(NAME, [picture, picture, np.zeros((8, 9, 1), np.uint8)]),
        "top_k": lambda: client.classify(NAME, [picture], top_k=11),
    }
    for field, call in wrong.items():
        error = refused(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.field == field
        assert str(error).startswith(f"{field}: ")
        assert error.retry_delay_s is None


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (np.zeros((8, 8, 1), np.float32), r"^pixels must be uint8 \[H, W, C\], not float32 \[8, 8, 1\]$"),
        (np.zeros((8, 8), np.uint8), r"^pixels must be uint8 \[H, W, C\], not uint8 \[8, 8\]$"),
        (np.zeros((1, 8, 8, 1), np.uint8), r"not uint8 \[1, 8, 8, 1\]$"),
        ("digit.png", r"^a picture is a file's bytes or an array, not str$"),
        (7, r"^a picture is a file's bytes or an array, not int$"),
    ],
    ids=["float", "no channels", "a batch", "a name", "one byte"],
)
def test_what_is_neither_a_file_nor_pixels_is_refused_before_it_is_sent(picture: object, reason: str) -> None:
    with Client("127.0.0.1:1") as nobody, pytest.raises(TypeError, match=reason):
        nobody.classify(NAME, [picture])


def test_the_server_tells_what_it_holds(client: Client) -> None:
    statuses = client.list_models()
    assert [status.name for status in statuses] == [
        "lenet5-digits",
        "simple_cnn-digits",
        "two_block_cnn-digits",
    ]
    assert all(status.state == State.MODEL_STATE_READY for status in statuses)
    described = client.get_model(NAME)
    assert described.status == statuses[1]
    assert described.manifest.parameters == 30_000
    assert list(described.labels) == list("0123456789")
    assert client.get_model(NAME, version=1) == described
    for call in (lambda: client.get_model("nobody"), lambda: client.get_model(NAME, version=2)):
        assert refused(call).code is grpc.StatusCode.NOT_FOUND


def test_the_health_of_the_server_and_of_a_model_can_be_asked(client: Client) -> None:
    assert client.is_serving() is True
    assert client.is_serving(NAME) is True
    assert refused(lambda: client.is_serving("nobody")).code is grpc.StatusCode.NOT_FOUND


def test_a_server_that_is_not_there_is_unavailable(digits: Golden) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        with Client(f"127.0.0.1:{port}") as client:
            for call in (
                lambda: client.classify(NAME, [digits.images[0]]),
                client.list_models,
                client.is_serving,
            ):
                error = refused(call)
                assert error.code is grpc.StatusCode.UNAVAILABLE
                assert str(error)
                assert (error.field, error.retry_delay_s) == ("", None)


def test_clients_in_threads_get_their_own_answers(server, digits: Golden) -> None:
    together = threading.Barrier(4)

    def ask(client: Client, index: int) -> list[int]:
        together.wait()
        return [client.classify(NAME, [digits.images[index]], top_k=1)[0][0].index for _ in range(25)]

    with server.client() as shared, server.client() as other, ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(ask, client, index) for index, client in enumerate((shared, shared, other, other))
        ]
        answers = [future.result() for future in asked]
    best = digits.probabilities.argmax(axis=1)
    assert len(set(best[:4])) > 1  # or an exchange would not show
    assert answers == [[best[index]] * 25 for index in range(4)]


@pytest.fixture
def held_address(start_server, gate) -> Iterator[str]:
    """The address of a server with a queue of four, whose device stands still while the gate is shut."""
    running = start_server(
        open_network=gate.open_network, max_batch_size=1, max_queue_size=4, max_images_per_request=4
    )
    gate.shut()
    yield running.address
    gate.open()


def test_a_full_queue_says_when_to_come_back_and_then_takes_more(
    held_address: str, gate, digits: Golden
) -> None:
    pictures = list(digits.images[:4])
    best = digits.probabilities[:4].argmax(axis=1).tolist()
    with Client(held_address) as client:
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(client.classify, NAME, pictures, 1)
            gate.reached.wait()  # one of the four is on the device, three wait
            error = refused(lambda: client.classify(NAME, pictures[:2]))
            gate.open()
            assert [labels[0].index for labels in held.result()] == best
        assert [labels[0].index for labels in client.classify(NAME, pictures)] == best
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.retry_delay_s == pytest.approx(0.01)  # such a backlog is gone at once
    assert error.field == ""
    assert f"queue full: 3 of 4 images queued for {NAME}, 2 requested" in str(error)


def test_a_call_ends_with_its_own_timeout_or_else_with_the_clients(
    held_address: str, gate, digits: Golden
) -> None:
    pictures = [digits.images[0]]
    with Client(held_address, timeout_s=0.3) as client, ThreadPoolExecutor(1) as pool:
        patient = pool.submit(client.classify, NAME, pictures, timeout_s=60)
        gate.reached.wait()
        error = refused(lambda: client.classify(NAME, pictures))
        gate.open()  # the patient call began earlier and has waited longer
        assert len(patient.result()) == 1
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (error.field, error.retry_delay_s) == ("", None)


class Breakable:
    """A network whose device can be broken."""

    broken = False

    def __init__(
        self, path: Path, manifest: manifest_pb2.Manifest, device: Device, batch_sizes: Sequence[int]
    ) -> None:
        self._network = OnnxNetwork(path, manifest, device, batch_sizes)

    def infer(self, rows: Sequence[Pixels]) -> Probabilities:
        if self.broken:
            raise RuntimeError("secret of the device")
        return self._network.infer(rows)


def test_a_failing_device_is_an_internal_error_that_tells_no_secret(start_server, digits: Golden) -> None:
    class OfThisTest(Breakable):
        pass

    with start_server(open_network=OfThisTest).client() as client:
        OfThisTest.broken = True  # it has proved itself
        error = refused(lambda: client.classify(NAME, [digits.images[0]]))
    assert error.code is grpc.StatusCode.INTERNAL
    assert str(error) == "the device failed this batch"
    assert (error.field, error.retry_delay_s) == ("", None)
