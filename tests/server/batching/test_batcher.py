"""Batches are bound late, carry whoever waits, and every caller is settled exactly once."""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from client import Client, ClientError, Label
from export import pipeline
from export.data import datasets
from export.training import train
from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc

MODEL = "lenet5-digits"
OTHER = "simple_cnn-digits"


@pytest.fixture
def rows(digits: datasets.Split, exported: dict[str, pipeline.Exported]) -> np.ndarray:
    """Held-out digits at the model's size, uint8 [N, 32, 32, 1]."""
    one = exported[MODEL].manifest
    return digits.fitted(one.input, one.preprocessing).images


@pytest.fixture
def expected(rows: np.ndarray, exported: dict[str, pipeline.Exported]) -> np.ndarray:
    """PyTorch's probabilities for `rows`, [N, 10]."""
    return train.probabilities(exported[MODEL].served, rows)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(128) as pool:
        yield pool


def ask(pool: ThreadPoolExecutor, client: Client, *images: np.ndarray) -> "Future[list[list[Label]]]":
    return pool.submit(client.classify, MODEL, list(images), top_k=10)


def assert_right(answer: list[Label], expected: np.ndarray) -> None:
    got = {label.index: label.probability for label in answer}
    assert [got[k] for k in range(10)] == pytest.approx(expected.tolist(), abs=1e-5)


def unanswered(reading, running) -> dict[str, float]:
    """Count the images that were not answered, by the reasons there were."""
    reasons = ("queue_full", "late", "expired", "cancelled", "failed")
    name = "modelzoo_unanswered_images_total"
    counts = {reason: reading(running, name, model=MODEL, reason=reason) for reason in reasons}
    return {reason: count for reason, count in counts.items() if count}


def test_images_that_wait_for_the_device_run_in_full_batches(
    start_server, gates, pool, waiting, wait_for, rows: np.ndarray, expected: np.ndarray
) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [16]})
    gates[MODEL].shut()
    with running.client() as client:
        first = ask(pool, client, rows[0])
        gates[MODEL].entered.acquire()  # the lane is held by the first image
        answers = [ask(pool, client, rows[index]) for index in range(1, 65)]
        wait_for(lambda: waiting(running) == 64)
        gates[MODEL].gate.set()
        for index, answer in enumerate([first, *answers]):
            assert_right(answer.result()[0], expected[index])
    assert gates[MODEL].batches == [1, 16, 16, 16, 16]


def test_a_request_larger_than_a_batch_is_split_and_put_together_again(
    start_server, gates, rows: np.ndarray, expected: np.ndarray
) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [16]})
    gates[MODEL].batches.clear()
    with running.client() as client:
        response = client.classify_raw(MODEL, list(rows[:100]), top_k=1)
    assert [c.labels[0].label_index for c in response.classifications] == expected[:100].argmax(1).tolist()
    assert response.timing.batch_size == 16
    assert gates[MODEL].batches == [16] * 6 + [4]


def test_a_full_queue_refuses_at_the_door_and_says_when_to_come_back(
    start_server, gates, pool, waiting, wait_for, reading, rows: np.ndarray, expected: np.ndarray
) -> None:
    running = start_server(open_network=gates, max_queue_size=8, max_images_per_request=8)
    gates[MODEL].shut()
    with running.client() as client:
        held = ask(pool, client, rows[0])
        gates[MODEL].entered.acquire()
        queued = ask(pool, client, *rows[1:6])
        wait_for(lambda: waiting(running) == 5)
        with pytest.raises(ClientError) as caught:
            client.classify(MODEL, list(rows[:4]))
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "queue full: 5 of 8 images queued for lenet5-digits, 4 requested" in str(caught.value)
        assert caught.value.retry_delay_s == pytest.approx(0.01)  # such a backlog is gone at once
        fits = ask(pool, client, *rows[6:9])
        wait_for(lambda: waiting(running) == 8)
        gates[MODEL].gate.set()
        assert_right(held.result()[0], expected[0])
        for index, answer in enumerate([*queued.result(), *fits.result()], start=1):
            assert_right(answer, expected[index])
    assert waiting(running) == 0
    assert unanswered(reading, running) == {"queue_full": 4}


def test_a_cancelled_caller_gives_up_its_seats(
    start_server, gates, pool, waiting, wait_for, reading, rows: np.ndarray, expected: np.ndarray
) -> None:
    running = start_server(open_network=gates)
    gates[MODEL].shut()
    with running.client() as client, grpc.insecure_channel(running.address) as channel:
        held = ask(pool, client, rows[0])
        gates[MODEL].entered.acquire()
        pixels = classifier_pb2.Pixels(height=32, width=32, channels=1, data=rows[1].tobytes())
        request = classifier_pb2.ClassifyRequest(
            model=MODEL, images=[classifier_pb2.Image(pixels=pixels)] * 7
        )
        doomed = classifier_pb2_grpc.ClassifierServiceStub(channel).Classify.future(request)
        wait_for(lambda: waiting(running) == 7)
        mate = ask(pool, client, rows[2])
        wait_for(lambda: waiting(running) == 8)
        doomed.cancel()
        wait_for(lambda: waiting(running) == 1)
        gates[MODEL].gate.set()
        assert_right(held.result()[0], expected[0])
        assert_right(mate.result()[0], expected[2])
    assert gates[MODEL].batches == [1, 1]
    assert waiting(running) == 0
    assert unanswered(reading, running) == {"cancelled": 7}


def test_a_late_request_is_dropped_before_any_computing(
    start_server, gates, pool, waiting, wait_for, reading, rows: np.ndarray
) -> None:
    running = start_server(open_network=gates)
    gates[MODEL].shut()
    with running.client() as client:
        held = ask(pool, client, rows[0])
        gates[MODEL].entered.acquire()
        with pytest.raises(ClientError) as caught:
            client.classify(MODEL, list(rows[1:4]), timeout_s=0.2)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: waiting(running) == 0)
        gates[MODEL].gate.set()
        held.result()
    assert gates[MODEL].batches == [1]
    # The client's own clock may hang up just before the server's clock finds it late.
    assert sum(unanswered(reading, running).values()) == 3


def test_a_batch_that_the_device_fails_fails_only_its_own_images(
    start_server, gates, pool, reading, rows: np.ndarray, expected: np.ndarray
) -> None:
    running = start_server(open_network=gates)
    network = gates[MODEL]
    with running.client() as client:
        network.failures.append(RuntimeError("CUDA error 700 at 0xdeadbeef"))
        with pytest.raises(ClientError) as caught:
            client.classify(MODEL, [rows[0]])
        assert caught.value.code == grpc.StatusCode.INTERNAL
        assert str(caught.value) == "the device failed this batch"  # not the stranger's message
        assert_right(client.classify(MODEL, [rows[1]], top_k=10)[0], expected[1])
    assert unanswered(reading, running) == {"failed": 1}
    events = [json.loads(line) for line in running.log.getvalue().splitlines()]
    [failed] = [event for event in events if event["event"] == "batch_failed"]
    assert (failed["level"], failed["model"]) == ("error", MODEL)
    assert failed["error"] == "RuntimeError: CUDA error 700 at 0xdeadbeef"


def test_a_network_that_is_short_by_a_row_fails_its_batch_and_hangs_nobody(
    start_server, gates, rows: np.ndarray
) -> None:
    running = start_server(open_network=gates)
    gates[MODEL].rows_missing = 1
    with running.client() as client, pytest.raises(ClientError) as caught:
        client.classify(MODEL, list(rows[:3]))
    assert caught.value.code == grpc.StatusCode.INTERNAL


def believe(running, seconds: float) -> None:
    """Have the batcher believe that a batch takes so long."""
    profile = running.queue(MODEL).profile
    for _ in range(200):
        profile.observe(profile.largest, seconds, time.monotonic())


def test_bulk_requests_wait_for_interactive_ones(
    start_server, gates, pool, waiting, wait_for, rows: np.ndarray, expected: np.ndarray
) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [4]})
    believe(running, 60.0)  # it takes ten times as long until bulk images may pass
    gates[MODEL].shut()
    with Client(running.address, timeout_s=1000) as client:
        held = ask(pool, client, rows[0])
        gates[MODEL].entered.acquire()
        bulk = pool.submit(client.classify, MODEL, list(rows[1:7]), top_k=10, bulk=True)
        wait_for(lambda: waiting(running) == 6)
        hurried = ask(pool, client, rows[7], rows[8])
        wait_for(lambda: waiting(running) == 8)
        gates[MODEL].gate.set()
        answers = [*held.result(), *bulk.result(), *hurried.result()]
    for index, answer in enumerate(answers):
        assert_right(answer, expected[index])
    assert gates[MODEL].batches == [1, 2, 4, 2]


def test_a_request_that_what_waits_would_make_late_is_refused_with_a_time_to_come_back(
    start_server, gates, pool, waiting, wait_for, reading, rows: np.ndarray
) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [4]})
    believe(running, 10.0)
    gates[MODEL].shut()
    with Client(running.address, timeout_s=1000) as client:
        held = ask(pool, client, rows[0])
        gates[MODEL].entered.acquire()
        queued = ask(pool, client, *rows[1:9])
        wait_for(lambda: waiting(running) == 8)
        with pytest.raises(ClientError) as caught:  # it would take nearly forty seconds
            client.classify(MODEL, [rows[9]], timeout_s=25)
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "predicted completion of lenet5-digits" in str(caught.value)
        assert 5 < caught.value.retry_delay_s < 15
        with pytest.raises(ClientError) as caught:  # not even if nobody else were there
            client.classify(MODEL, [rows[9]], timeout_s=2)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "deadline cannot be met: it has passed" in str(caught.value)
        gates[MODEL].gate.set()
        held.result()
        queued.result()
    assert unanswered(reading, running) == {"late": 1, "expired": 1}


@pytest.mark.serves(MODEL, OTHER)
def test_the_model_whose_image_waits_longest_goes_first(
    start_server, gates, pool, waiting, wait_for, digits: datasets.Split, encode
) -> None:
    running = start_server(open_network=gates, model_batch_sizes={MODEL: [32], OTHER: [32]})
    gates.order.clear()
    picture = encode(digits.images[0])
    gates[MODEL].shut()
    with running.client() as client:
        answers = [pool.submit(client.classify, MODEL, [picture])]
        gates[MODEL].entered.acquire()
        queued = {MODEL: 0, OTHER: 0}
        for name in (OTHER, MODEL, OTHER):
            answers.append(pool.submit(client.classify, name, [picture]))
            queued[name] += 1
            wait_for(lambda name=name: waiting(running, name) == queued[name])
        gates[MODEL].gate.set()
        for answer in answers:
            answer.result()
    assert gates.order == [MODEL, OTHER, MODEL]
