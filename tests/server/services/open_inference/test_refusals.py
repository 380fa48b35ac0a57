"""Whatever comes as a tensor gets a clear refusal, and the server still answers."""

import struct

import grpc
import numpy as np
import pytest

from modelzoo.v1 import open_inference_pb2 as messages

MODEL, SMALL = "lenet5-digits", "simple_cnn-digits"
IMAGES = np.zeros((2, 32, 32, 1), np.uint8)
Request = messages.ModelInferRequest
Parameter = messages.InferParameter


def pixels(**more: object) -> Request:
    """A request that is right, but for what is said."""
    request = Request(model_name=MODEL, raw_input_contents=[IMAGES.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=IMAGES.shape)
    request.MergeFrom(Request(**more))
    return request


def given(**fields: object) -> Request:
    """The same with another input."""
    request = pixels()
    for name, value in fields.items():
        if name == "shape":
            request.inputs[0].shape[:] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


def raw(*contents: bytes) -> Request:
    """The same with other raw contents."""
    request = pixels()
    request.raw_input_contents[:] = contents
    return request


def typed(datatype: str = "UINT8", shape: tuple[int, ...] = (1, 32, 32, 1), **contents: object) -> Request:
    """A request with typed contents."""
    request = Request(model_name=MODEL)
    one = request.inputs.add(name="images", datatype=datatype, shape=shape)
    one.contents.MergeFrom(messages.InferTensorContents(**contents))
    return request


def files(content: bytes, count: int = 1) -> Request:
    """A request with encoded pictures, as raw BYTES."""
    request = Request(model_name=MODEL, raw_input_contents=[content])
    request.inputs.add(name="images", datatype="BYTES", shape=[count])
    return request


def asked(name: str = "probabilities", times: int = 1, **parameters: Parameter) -> Request:
    """A request for such outputs."""
    output = Request.InferRequestedOutputTensor(name=name, parameters=parameters)
    return pixels(outputs=[output] * times)


def without_input() -> Request:
    request = pixels()
    request.ClearField("inputs")
    return request


def both() -> Request:
    request = pixels()
    request.inputs[0].contents.uint_contents.append(0)
    return request


def nowhere() -> Request:
    request = pixels()
    request.ClearField("raw_input_contents")
    return request


ELEMENT = struct.pack("<I", 3) + b"abc"
REFUSED = {
    "no input": (without_input(), "inputs: 0 tensors, not 1"),
    "two inputs": (pixels(inputs=pixels().inputs), "inputs: 2 tensors, not 1"),
    "another name": (given(name="input"), "inputs[0].name: 'input', not 'images'"),
    "another type": (given(datatype="FP32"), "inputs[0].datatype: 'FP32', not UINT8 or BYTES"),
    "no type": (given(datatype=""), "inputs[0].datatype: '', not UINT8 or BYTES"),
    "another shape": (given(shape=[2, 32, 31, 1]), "inputs[0].shape: [2, 32, 31, 1], not [N, 32, 32, 1]"),
    "one image's shape": (given(shape=[32, 32, 1]), "inputs[0].shape: [32, 32, 1], not [N, 32, 32, 1]"),
    "channels first": (given(shape=[2, 1, 32, 32]), "inputs[0].shape: [2, 1, 32, 32], not"),
    "no shape": (given(shape=[]), "inputs[0].shape: [], not [N, 32, 32, 1]"),
    "many axes": (given(shape=[2] * 50), "inputs[0].shape: [2, 2, 2, 2, 2, 2, 2, 2], not"),
    "no image": (given(shape=[0, 32, 32, 1]), "inputs[0].shape: 0 images, not 1 to 256"),
    "fewer than none": (given(shape=[-1, 32, 32, 1]), "inputs[0].shape: -1 images, not 1 to 256"),
    "too many images": (given(shape=[257, 32, 32, 1]), "inputs[0].shape: 257 images, not 1 to 256"),
    "far too many": (given(shape=[2**62, 32, 32, 1]), f"inputs[0].shape: {2**62} images"),
    "a byte too few": (raw(IMAGES.tobytes()[1:]), "inputs[0]: 2047 bytes of pixels, not 2048"),
    "a byte too many": (raw(IMAGES.tobytes() + b"\0"), "inputs[0]: 2049 bytes of pixels, not 2048"),
    "no byte": (raw(b""), "inputs[0]: 0 bytes of pixels, not 2048"),
    "two raw contents": (raw(IMAGES.tobytes(), b""), "inputs[0]: content in 2 places, not 1"),
    "content nowhere": (nowhere(), "inputs[0]: content in 0 places, not 1"),
    "content twice": (both(), "raw_input_contents: the input has its content elsewhere, too"),
    "the contents of another type": (
        typed(fp32_contents=[0.0] * 1024),
        "inputs[0].contents: elements in ['fp32_contents'], not in uint_contents",
    ),
    "the contents of two types": (
        typed(uint_contents=[0] * 1024, bool_contents=[True]),
        "inputs[0].contents: elements in ['bool_contents', 'uint_contents'], not in uint_contents",
    ),
    "contents without elements": (typed(), "inputs[0].contents: elements in no field, not in uint_contents"),
    "an element too few": (typed(uint_contents=[0] * 1023), "inputs[0]: 1023 elements, not 1024"),
    "a value of 256": (typed(uint_contents=[*[0] * 1023, 256]), "inputs[0]: a value above 255"),
    "a value of 2**32 - 1": (typed(uint_contents=[2**32 - 1, *[0] * 1023]), "inputs[0]: a value above 255"),
    "typed pictures, one too few": (
        typed("BYTES", (2,), bytes_contents=[b"x"]),
        "inputs[0]: 1 elements, not 2",
    ),
    "typed pictures as pixels": (
        typed("BYTES", (1,), uint_contents=[0]),
        "inputs[0].contents: elements in ['uint_contents'], not in bytes_contents",
    ),
    "pictures in three axes": (
        typed("BYTES", (1, 1, 1), bytes_contents=[b"x"]),
        "inputs[0].shape: [1, 1, 1], not [N]",
    ),
    "two pictures in a row": (
        typed("BYTES", (1, 2), bytes_contents=[b"x"] * 2),
        "inputs[0].shape: [1, 2], not [N]",
    ),
    "no picture": (files(b"", 0), "inputs[0].shape: 0 images, not 1 to 256"),
    "what is no picture": (files(ELEMENT), "images[0]: neither a JPEG, a PNG nor a WebP"),
    "an empty picture": (files(bytes(4)), "images[0]: empty"),
    "the second is no picture": (files(ELEMENT * 2, 2), "images[0]: "),
    "an element too few in raw": (files(ELEMENT, 2), "inputs[0]: 1 elements, not 2"),
    "an element too many in raw": (files(ELEMENT * 2), "inputs[0]: 2 elements, not 1"),
    "no element in raw": (files(b""), "inputs[0]: 0 elements, not 1"),
    "a length that is cut": (files(ELEMENT + b"\1\0"), "inputs[0]: element 1 ends after the content does"),
    "an element that is cut": (files(ELEMENT[:-1]), "inputs[0]: element 0 ends after the content does"),
    "a length of 4 GiB": (files(b"\xff" * 4), "inputs[0]: element 0 ends after the content does"),
    "another output": (asked("logits"), "outputs[0].name: 'logits', not 'probabilities'"),
    "an output twice": (asked(times=2), "outputs: 2 tensors, not 1"),
    "no label": (
        asked(classification=Parameter(int64_param=0)),
        "outputs[0].parameters[classification]: 0 labels",
    ),
    "fewer labels than none": (
        asked(classification=Parameter(int64_param=-1)),
        "outputs[0].parameters[classification]: -1 labels",
    ),
    "labels as text": (
        asked(classification=Parameter(string_param="3")),
        "outputs[0].parameters[classification]: not an int64_param",
    ),
    "labels unsigned": (
        asked(classification=Parameter(uint64_param=3)),
        "outputs[0].parameters[classification]: not an int64_param",
    ),
    "labels without a number": (
        asked(classification=Parameter()),
        "outputs[0].parameters[classification]: not an int64_param",
    ),
    "a negative timeout": (
        pixels(parameters={"timeout": Parameter(int64_param=-1)}),
        "parameters[timeout]: -1 microseconds",
    ),
    "a timeout as text": (
        pixels(parameters={"timeout": Parameter(string_param="1")}),
        "parameters[timeout]: not an int64_param",
    ),
    "a negative priority": (
        pixels(parameters={"priority": Parameter(int64_param=-1)}),
        "parameters[priority]: not an int64_param or uint64_param from 0 on",
    ),
    "a priority as text": (
        pixels(parameters={"priority": Parameter(string_param="1")}),
        "parameters[priority]: not an int64_param or uint64_param from 0 on",
    ),
    "a version that is no number": (pixels(model_version="latest"), "model_version: 'latest' is no version"),
    "a version below zero": (pixels(model_version="-1"), "model_version: '-1' is no version"),
    "a version without end": (pixels(model_version="9" * 9000), "model_version: '999999999' is no version"),
    "a version in other digits": (pixels(model_version="\u0661"), "model_version: '\u0661' is no version"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_is_wrong_is_told_where(tensors, case: str) -> None:
    request, reason = REFUSED[case]
    code, details = tensors.refusal(tensors.stub.ModelInfer, request)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(reason)


def test_the_same_is_told_in_a_stream_that_stays_open(tensors) -> None:
    requests = [request for request, _ in REFUSED.values()]
    for number, request in enumerate(requests):
        request.id = str(number)
    told = {one.infer_response.id: one.error_message for one in tensors.stub.ModelStreamInfer(iter(requests))}
    assert len(told) == len(REFUSED)
    for number, (_, reason) in enumerate(REFUSED.values()):
        assert told[str(number)].startswith(reason)


def test_what_is_asked_of_nobody_is_not_found(tensors) -> None:
    for call, request in (
        (tensors.stub.ModelInfer, pixels(model_version="2")),
        (tensors.stub.ModelInfer, tensors.pixels(IMAGES[:1], Request(model_name="lenet6"))),
        (tensors.stub.ModelMetadata, messages.ModelMetadataRequest(name="x")),
        (tensors.stub.ModelConfig, messages.ModelConfigRequest(name=MODEL, version="7")),
        (tensors.stub.ModelStatistics, messages.ModelStatisticsRequest(name="x" * 9000)),
    ):
        assert tensors.refusal(call, request)[0] == "NOT_FOUND"


@pytest.mark.parametrize("version", ["latest", "1.0", " 1", "+1", "0x1"])
def test_versions_that_are_no_numbers_are_refused_everywhere(tensors, version: str) -> None:
    for call, kind in (
        (tensors.stub.ModelReady, messages.ModelReadyRequest),
        (tensors.stub.ModelMetadata, messages.ModelMetadataRequest),
        (tensors.stub.ModelConfig, messages.ModelConfigRequest),
        (tensors.stub.ModelStatistics, messages.ModelStatisticsRequest),
    ):
        code, details = tensors.refusal(call, kind(name=MODEL, version=version))
        assert code == "INVALID_ARGUMENT"
        assert details == f"version: {version!r} is no version, which is a number"


def test_a_model_that_failed_is_unavailable_and_says_why(
    start_server, tensors_of, scratch_repository
) -> None:
    (scratch_repository / MODEL / "1/model.onnx").unlink()
    tensors = tensors_of(start_server(repository=scratch_repository))
    stub = tensors.stub
    for call, request in (
        (stub.ModelInfer, pixels()),
        (stub.ModelMetadata, messages.ModelMetadataRequest(name=MODEL)),
        (stub.ModelConfig, messages.ModelConfigRequest(name=MODEL)),
        (stub.ModelStatistics, messages.ModelStatisticsRequest(name=MODEL)),
    ):
        code, details = tensors.refusal(call, request)
        assert code == "UNAVAILABLE"
        assert "lenet5-digits is failed: model.onnx cannot be read" in details
    assert not stub.ModelReady(messages.ModelReadyRequest(name=MODEL)).ready
    index = stub.RepositoryIndex(messages.RepositoryIndexRequest()).models
    assert (index[0].name, index[0].state) == (MODEL, "UNAVAILABLE")
    assert "model.onnx cannot be read" in index[0].reason
    ready = stub.RepositoryIndex(messages.RepositoryIndexRequest(ready=True)).models
    assert [one.name for one in ready] == [SMALL, "two_block_cnn-digits"]


def test_what_the_protocol_has_and_we_do_not_is_unimplemented(server, tensors) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for method in ("TraceSetting", "LogSettings"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            assert tensors.refusal(call, b"") == ("UNIMPLEMENTED", "Method not found!")


def test_a_deadline_that_has_passed_is_kept(tensors) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        tensors.stub.ModelInfer(tensors.pixels(np.zeros((200, 32, 32, 1), np.uint8)), timeout=0.001)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
