"""Whatever a client sends, it gets a clear refusal, nobody else is hurt, and the server still answers."""

import io
import struct
import threading
import zlib
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from PIL import Image

from artifact import pictures
from client import Client, ClientError
from export import pipeline
from export.data import datasets
from export.training import train
from modelzoo.v1 import classifier_pb2, classifier_pb2_grpc

MODEL = "lenet5-digits"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def good(digits: datasets.Split, encode) -> bytes:
    """A picture that the model can answer."""
    return encode(digits.images[0])


@pytest.fixture(autouse=True)
def still_answers(server, good: bytes, exported: dict[str, pipeline.Exported]) -> Iterator[None]:
    """Prove after every test that the server answers, and rightly."""
    yield
    one = exported[MODEL]
    row = pictures.decode(good, one.manifest.input, one.manifest.preprocessing)
    expected = train.probabilities(one.served, row[np.newaxis])[0]
    with server.client() as client:
        [[best]] = client.classify(MODEL, [good], top_k=1)
    assert best.index == expected.argmax()
    assert best.probability == pytest.approx(expected.max(), abs=1e-5)


def refusal(client: Client, *pictures_: bytes | np.ndarray, model: str = MODEL, **options) -> ClientError:
    with pytest.raises(ClientError) as caught:
        client.classify(model, list(pictures_), **options)
    return caught.value


def png_bomb(side_px: int) -> bytes:
    """A valid PNG of one colour: under a megabyte that decodes to nearly a gigabyte."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    # Compressing gigabytes takes long, so one block of rows is compressed, and repeated.
    rows_per_block = 100
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes((side_px + 1) * rows_per_block)) + compressor.flush(zlib.Z_FULL_FLUSH)
    size_bytes = (side_px + 1) * side_px
    adler32 = ((size_bytes % 65521) << 16 | 1).to_bytes(4, "big")  # of zeros
    data = b"\x78\xda" + block * (side_px // rows_per_block) + b"\x03\x00" + adler32
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is no picture", "neither a JPEG, a PNG nor a WebP"),
        (b"", "empty"),
        (b"GIF89a" + bytes(20), "neither a JPEG, a PNG nor a WebP"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated"),
    ],
)
def test_what_is_no_picture_is_refused(client: Client, content: bytes, reason: str) -> None:
    error = refusal(client, content)
    assert (error.code, error.field) == (INVALID, "images[0]")
    assert reason in str(error)


def test_a_truncated_jpeg_is_refused(client: Client, encode) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = encode(Image.fromarray(noise), "JPEG")
    error = refusal(client, whole[: len(whole) // 2])
    assert (error.code, error.field) == (INVALID, "images[0]")
    assert "truncated" in str(error)


def test_a_png_bomb_is_refused_before_it_is_decoded(client: Client) -> None:
    bomb = png_bomb(30_000)
    assert len(bomb) < 1_000_000
    error = refusal(client, bomb)
    assert (error.code, error.field) == (INVALID, "images[0]")
    assert "30000 x 30000 pixels" in str(error)


def test_a_request_without_images_is_refused(client: Client) -> None:
    error = refusal(client)
    assert (error.code, error.field) == (INVALID, "images")
    assert "0 images, not 1 to 256" in str(error)


def test_an_image_without_content_is_refused(server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        request = classifier_pb2.ClassifyRequest(model=MODEL, images=[classifier_pb2.Image()])
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(request)
    assert caught.value.code() == INVALID
    assert "images[0]: empty" in caught.value.details()


def test_more_images_than_a_request_may_have_are_refused(client: Client, good: bytes) -> None:
    error = refusal(client, *[good] * 1000)
    assert (error.code, error.field) == (INVALID, "images")
    assert "1000 images, not 1 to 256" in str(error)


def test_a_request_over_the_message_limit_is_refused(client: Client) -> None:
    error = refusal(client, bytes(65 << 20))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(error)


def test_an_unknown_model_is_not_found(client: Client, good: bytes) -> None:
    error = refusal(client, good, model="lenet6-digits")
    assert error.code == grpc.StatusCode.NOT_FOUND
    assert "lenet6-digits" in str(error)


@pytest.mark.parametrize("version", [0, -1, 2, 2**31 - 1])
def test_an_unknown_version_is_not_found(client: Client, good: bytes, version: int) -> None:
    error = refusal(client, good, version=version)
    assert error.code == grpc.StatusCode.NOT_FOUND
    assert f"no version {version}" in str(error)


@pytest.mark.parametrize("priority", [3, -1, 2**31 - 1])
def test_a_priority_that_there_is_not_is_refused(server, good: bytes, priority: int) -> None:
    request = classifier_pb2.ClassifyRequest(
        model=MODEL, images=[classifier_pb2.Image(encoded=good)], priority=priority
    )
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        classifier_pb2_grpc.ClassifierServiceStub(channel).Classify(request)
    assert caught.value.code() == INVALID
    assert caught.value.details() == f"priority: {priority} is no priority"


@pytest.mark.parametrize("top_k", [0, -1, -(2**31), 11, 2**31 - 1])
def test_an_impossible_top_k_is_refused(client: Client, good: bytes, top_k: int) -> None:
    error = refusal(client, good, top_k=top_k)
    assert (error.code, error.field) == (INVALID, "top_k")
    assert f"{top_k} labels, not 1 to 10" in str(error)


@pytest.mark.parametrize("shape", [(32, 31, 1), (31, 32, 1), (32, 32, 3), (8, 8, 1), (0, 0, 1)])
def test_pixels_of_another_shape_are_refused(client: Client, shape: tuple[int, int, int]) -> None:
    error = refusal(client, np.zeros(shape, np.uint8))
    assert (error.code, error.field) == (INVALID, "images[0]")
    assert f"shape {shape}" in str(error)
    assert "not (32, 32, 1)" in str(error)


@pytest.mark.parametrize("shape", [(32, 32, 0), (32, 32, 3), (32, 16, 2), (1, 1, 1024), (16, 64, 1)])
def test_pixels_of_another_shape_with_as_many_bytes_are_refused(server, shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    pixels = classifier_pb2.Pixels(height=height, width=width, channels=channels, data=bytes(1024))
    request = classifier_pb2.ClassifyRequest(model=MODEL, images=[classifier_pb2.Image(pixels=pixels)])
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        classifier_pb2_grpc.ClassifierServiceStub(channel).Classify(request)
    assert caught.value.code() == INVALID
    assert (
        f"images[0]: pixels of shape {shape} (height, width, channels), not (32, 32, 1)"
        in caught.value.details()
    )


@pytest.mark.parametrize("size_bytes", [0, 1023, 1025])
def test_pixels_of_another_size_than_their_shape_are_refused(server, size_bytes: int) -> None:
    pixels = classifier_pb2.Pixels(height=32, width=32, channels=1, data=bytes(size_bytes))
    request = classifier_pb2.ClassifyRequest(model=MODEL, images=[classifier_pb2.Image(pixels=pixels)])
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        classifier_pb2_grpc.ClassifierServiceStub(channel).Classify(request)
    assert caught.value.code() == INVALID
    assert f"images[0]: {size_bytes} bytes of pixels, not 1024" in caught.value.details()


def test_one_bad_image_among_good_ones_is_named(client: Client, good: bytes) -> None:
    error = refusal(client, good, good, good, b"bad", good, b"worse")
    assert (error.code, error.field) == (INVALID, "images[3]")


def test_bad_pixels_among_good_pictures_are_named(client: Client, good: bytes) -> None:
    error = refusal(client, good, np.zeros((3, 3, 1), np.uint8))
    assert (error.code, error.field) == (INVALID, "images[1]")


def test_bytes_that_are_no_request_are_refused(server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/modelzoo.v1.ClassifierService/Classify")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff")
    assert caught.value.code() == INVALID
    assert "not a modelzoo.v1.ClassifyRequest" in caught.value.details()


def test_an_unknown_method_is_unimplemented(server) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/modelzoo.v1.ClassifierService/Train")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_of_a_millisecond_is_kept(client: Client, good: bytes) -> None:
    error = refusal(client, *[good] * 200, timeout_s=0.001)
    assert error.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_good_requests_beside_bad_ones_are_all_answered(server, good: bytes) -> None:
    failures: list[str] = []

    def ask(bad: bool) -> None:
        with server.client() as client:
            for _ in range(20):
                try:
                    [[best]] = client.classify(MODEL, [good, b"bad"][bad:][:1], top_k=1)
                except ClientError as error:
                    if not bad or error.code != INVALID:
                        failures.append(str(error))
                else:
                    if bad or best.probability <= 0:
                        failures.append("a bad picture was answered")

    threads = [threading.Thread(target=ask, args=(number % 2 == 1,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_unusual_pictures_are_answered_as_their_pixels_are(
    client: Client, encode, exported: dict[str, pipeline.Exported]
) -> None:
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (41, 57), np.uint8))
    rgb = Image.merge("RGB", (grey, grey.rotate(90, expand=True).resize(grey.size), grey.transpose(0)))
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: turn by 90 degrees
    wide = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (40, 40), np.uint16))
    upright = grey.transpose(Image.Transpose.ROTATE_270)
    narrow = Image.fromarray(((np.asarray(wide).astype(np.uint32) + 128) // 257).astype(np.uint8))
    cases = {
        "grey": (encode(grey), grey),
        "colour": (encode(rgb), rgb),
        "CMYK": (encode(rgb.convert("CMYK"), "JPEG"), None),
        "palette": (encode(rgb.quantize(16)), rgb.quantize(16)),
        "transparent": (encode(rgb.convert("RGBA")), rgb),
        "rotated by EXIF": (encode(grey, exif=rotated), upright),
        "16-bit grey": (encode(wide), narrow),
    }
    one = exported[MODEL]
    for name, (encoded, seen) in cases.items():
        image = Image.open(io.BytesIO(encoded)) if seen is None else seen
        pixels = np.asarray(image.convert("L"))[:, :, np.newaxis]
        row = pictures.fit(pixels, one.manifest.input, one.manifest.preprocessing)
        expected = train.probabilities(one.served, row[np.newaxis])[0]
        [labels] = client.classify(MODEL, [encoded], top_k=10)
        got = {label.index: label.probability for label in labels}
        assert [got[k] for k in range(10)] == pytest.approx(expected.tolist(), abs=1e-5), name
