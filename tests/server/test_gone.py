"""Clients that leave before their answer: every call is counted to its end, and nothing of it stays."""

import urllib.request
from collections import Counter

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from client import ClientError
from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc
from tests.server.progress import wait_for

MODEL = "lenet5-digits"
CALLS = 20
PIXELS = np.zeros((32, 32, 1), np.uint8)
RAW = classifier_pb2.Pixels(height=32, width=32, channels=1, data=PIXELS.tobytes())
REQUEST = classifier_pb2.ClassifyRequest(model=MODEL, images=[classifier_pb2.Image(pixels=RAW)] * 32)
NOTHING = {"started": 0, "handled": {}, "requests": {}, "waiting images": 0}


def counts(running) -> dict[str, object]:
    """What the server counts of Classify, without the zeros."""
    seen = {"started": 0.0, "handled": Counter(), "requests": Counter(), "waiting images": 0.0}
    with urllib.request.urlopen(running.metrics_url) as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    for sample in samples:
        of_classify = sample.labels.get("grpc_method") == "Classify"
        if sample.name == "grpc_server_started_total" and of_classify:
            seen["started"] = sample.value
        elif sample.name == "grpc_server_handled_total" and of_classify and sample.value:
            seen["handled"][sample.labels["grpc_code"]] = sample.value
        elif sample.name == "modelzoo_requests_total" and sample.value:
            seen["requests"][sample.labels["code"]] = sample.value
        elif sample.name == "modelzoo_queue_images":
            seen["waiting images"] += sample.value
    return seen


def expect_idle(running) -> None:
    """Wait until nothing of any call is left; a call that stays hangs here until the test's own limit."""
    front = running.front
    wait_for(front.in_flight.idle.is_set)
    wait_for(lambda: counts(running)["waiting images"] == 0)
    assert front.decoder.waiting_pixels == 0
    assert (front.in_flight._bytes, front.in_flight._requests) == (0, 0)


def test_clients_that_hang_up_while_they_wait_in_the_queue_leave_nothing(start_server, gates) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [32]})
    assert counts(running) == NOTHING
    gates[MODEL].shut()
    with grpc.insecure_channel(running.address) as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        futures = [stub.Classify.future(REQUEST) for _ in range(CALLS)]
        gates[MODEL].entered.acquire()
        wait_for(lambda: counts(running)["waiting images"] == (CALLS - 1) * 32)
        assert counts(running)["started"] == CALLS
        assert not running.front.in_flight.idle.is_set()
        for future in futures:
            future.cancel()
    expect_idle(running)  # though the lane is still held
    seen = counts(running)
    assert (seen["started"], seen["handled"], seen["requests"]) == (
        CALLS,
        {"Cancelled": CALLS},
        {"CANCELLED": CALLS},
    )
    gates[MODEL].gate.set()
    with running.client() as client:
        assert len(client.classify(MODEL, [PIXELS])[0]) == 5
    assert gates[MODEL].batches == [32, 1]  # who left the queue was never computed


def test_clients_that_hang_up_while_their_pictures_are_decoded_leave_nothing(start_server, encode) -> None:
    running = start_server()
    large = classifier_pb2.Image(encoded=encode(np.zeros((6300, 6300, 1), np.uint8)))
    request = classifier_pb2.ClassifyRequest(model=MODEL, images=[large] * 4)
    with grpc.insecure_channel(running.address) as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        futures = [stub.Classify.future(request) for _ in range(4)]
        wait_for(lambda: counts(running)["started"] == 4)
        for future in futures:
            future.cancel()
    expect_idle(running)
    seen = counts(running)
    assert seen["handled"] == {"Cancelled": 4}
    assert seen["requests"] == {"CANCELLED": 4}
    with running.client() as client:
        assert len(client.classify(MODEL, [PIXELS])[0]) == 5


def test_a_call_whose_deadline_passes_in_the_queue_is_dropped_and_counted(start_server, gates) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [32]})
    gates[MODEL].shut()
    with running.client() as client:
        client.list_models()  # connected before the clock starts
        with pytest.raises(ClientError) as caught:
            client.classify(MODEL, [PIXELS] * 64, timeout_s=0.5)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        expect_idle(running)
        seen = counts(running)
        assert (seen["started"], seen["handled"]) == (1, {"DeadlineExceeded": 1})
        assert seen["requests"] == {"DEADLINE_EXCEEDED": 1}
        gates[MODEL].gate.set()
        assert len(client.classify(MODEL, [PIXELS])[0]) == 5
    assert gates[MODEL].batches == [32, 1]  # the half that had begun, and the next call
