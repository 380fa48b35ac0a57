"""What the settings say about pictures holds for the clients of a server."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from client import ClientError

SIMPLE = "simple_cnn-digits"
pytestmark = pytest.mark.serves(SIMPLE)


def blank(encode, height: int, width: int) -> bytes:
    return encode(np.zeros((height, width, 1), np.uint8))


def test_the_settings_bound_a_picture_and_a_request(start_server, encode) -> None:
    running = start_server(max_image_pixels=100, max_request_pixels=170)
    largest, larger = blank(encode, 10, 10), blank(encode, 101, 1)
    half = blank(encode, 7, 7)  # becomes 8 x 8
    with running.client() as client:
        assert len(client.classify(SIMPLE, [largest, half])) == 2
        with pytest.raises(ClientError) as caught:
            client.classify(SIMPLE, [half, larger])
        assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "images[1]")
        assert "1 x 101 pixels are more than the 100 allowed" in str(caught.value)
        with pytest.raises(ClientError) as caught:
            client.classify(SIMPLE, [largest, half, half])
        assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "images")
        assert "228 pixels in all, more than the 170 allowed" in str(caught.value)


def test_a_server_whose_decoders_are_full_says_when_to_come_back(start_server, encode) -> None:
    most = 4_000_000
    running = start_server(
        decoder_threads=1, max_image_pixels=most, max_request_pixels=most, max_decoding_pixels=most
    )
    large = blank(encode, 2000, 2000)  # leaves no room for another
    refusals: list[ClientError] = []
    with running.client() as client, ThreadPoolExecutor(8) as pool:
        while not refusals:  # several at once, until two meet
            asked = [pool.submit(client.classify, SIMPLE, [large]) for _ in range(8)]
            refusals = [error for answer in asked if (error := answer.exception()) is not None]
            assert len(refusals) < 8
        assert {error.code for error in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {error.retry_delay_s for error in refusals} == {0.5}
        assert "of 4,000,000 pixels queued, 4,000,000 requested" in str(refusals[0])
        assert len(client.classify(SIMPLE, [large])) == 1
