"""Other servers are measured with the same loads: those that speak the Open Inference Protocol."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest

from artifact.golden import Golden
from bench.load import protocols
from bench.load.closed_loop import closed_loop
from bench.load.load import Load
from client import ClientError
from modelzoo.v1 import open_inference_pb2 as oip

NAME = "simple_cnn-digits"


class OtherServer(grpc.GenericRpcHandler):
    """A small server of the protocol: one model in ONNX Runtime, and a black picture is an error.

    Attributes:
        datatype: what it says that it takes.
        raw: whether answers come as bytes, or else as typed contents.
        turned: whether every answer is another label's.
    """

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.datatype = "UINT8"
        self.raw = True
        self.turned = False

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        asked = oip.ModelInferRequest.FromString
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        answered, streamed = oip.ModelInferResponse, oip.ModelStreamInferResponse
        return {
            "ModelMetadata": unary(
                self._describe,
                oip.ModelMetadataRequest.FromString,
                oip.ModelMetadataResponse.SerializeToString,
            ),
            "ModelInfer": unary(self._infer, asked, answered.SerializeToString),
            "ModelStreamInfer": stream(self._infer_all, asked, streamed.SerializeToString),
        }.get(handler_call_details.method.removeprefix("/inference.GRPCInferenceService/"))

    def _describe(
        self, request: oip.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> oip.ModelMetadataResponse:
        if request.name != NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name} here")
        response = oip.ModelMetadataResponse(name=NAME)
        [source], [sink] = self._session.get_inputs(), self._session.get_outputs()
        response.inputs.add(name=source.name, datatype=self.datatype, shape=[-1, *source.shape[1:]])
        response.outputs.add(name="note", datatype="BYTES", shape=[1])
        response.outputs.add(name=sink.name, datatype="FP32", shape=[-1, *sink.shape[1:]])
        return response

    def _infer(self, request: oip.ModelInferRequest, context: grpc.ServicerContext) -> oip.ModelInferResponse:
        try:
            return self._answer(request)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError("abort raises") from error

    def _infer_all(
        self, requests: Iterator[oip.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[oip.ModelStreamInferResponse]:
        for request in requests:
            try:
                yield oip.ModelStreamInferResponse(infer_response=self._answer(request))
            except ValueError as error:
                nothing = oip.ModelInferResponse(id=request.id)
                yield oip.ModelStreamInferResponse(error_message=str(error), infer_response=nothing)

    def _answer(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        [source], [sink] = request.inputs, request.outputs
        images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(source.shape)
        if not images.any():
            raise ValueError("a black picture")
        answers = self._session.run([sink.name], {source.name: images})[0]
        answers = np.roll(answers, int(self.turned), axis=1)
        response = oip.ModelInferResponse(model_name=NAME, id=request.id)
        output = response.outputs.add(name=sink.name, datatype="FP32", shape=answers.shape)
        if self.raw:
            response.raw_output_contents.append(answers.tobytes())
        else:
            output.contents.fp32_contents.extend(answers.ravel())
        return response


@pytest.fixture
def other(repository: Path) -> OtherServer:
    return OtherServer(repository / NAME / "1" / "model.onnx")


@pytest.fixture
def address(other: OtherServer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(8), handlers=[other])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("streams", [0, 2], ids=["calls", "streams"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_its_answers_are_checked_and_its_refusals_counted(
    other: OtherServer, address: str, digits: Golden, streams: int, raw: bool
) -> None:
    other.raw = raw
    black = np.zeros_like(digits.images[0])
    load = Load(
        protocols.infer(address, NAME, black),
        pictures=[*digits.images[:3], black],
        labels=[{int(label)} for label in [*digits.probabilities[:3].argmax(axis=1), 0]],
        outstanding=4,
        requests=40,
        streams=streams,
        seconds=100,
    )
    done = closed_loop(load, address)
    assert (done.answered, done.wrong, done.hung) == (30, 0, 0)
    assert done.refused == {"UNKNOWN" if streams else "INVALID_ARGUMENT": 10}


@pytest.mark.slow
def test_the_command_measures_it(
    address: str, measured: Callable[..., dict[str, Any]], bench: Callable[..., Any], other: OtherServer
) -> None:
    at = ("--address", address, "--protocol", "open-inference", "--rounds", 1)
    found = measured(*at, "--streams", 2, "--images", 3)
    assert (found["protocol"], found["precision"], found["started_here"]) == ("open-inference", "fp32", False)
    closed = found["closed"]
    assert closed["requests"] == closed["checked"] > 0
    assert closed["mean_batch"] is closed["server_cpu_s_per_1000_images"] is None
    other.turned = True
    done = bench(*at)
    assert done.returncode == 1
    assert "requests without a right answer" in done.stderr


@pytest.mark.parametrize("streams", [0, 2], ids=["calls", "streams"])
def test_our_own_server_may_be_asked_in_this_protocol_too(
    server, measured: Callable[..., dict[str, Any]], streams: int
) -> None:
    at = ("--address", server.address, "--protocol", "open-inference", "--rounds", 1, "--streams", streams)
    closed = measured(*at, "--generator", "python", "--images", 3)["closed"]
    assert closed["requests"] == closed["checked"] > 0
    assert closed["failed"] == 0


def test_a_model_that_does_not_take_such_pictures_is_not_asked(
    other: OtherServer, address: str, digits: Golden
) -> None:
    other.datatype = "FP32"
    with pytest.raises(ValueError, match=r"takes FP32 \[8, 8, 1\], not UINT8 pixels"):
        protocols.infer(address, NAME, digits.images[0])
    other.datatype = "UINT8"
    for picture in (digits.images[0][:4], b"a file"):
        with pytest.raises(ValueError, match="not UINT8 pixels of the artifact's shape"):
            protocols.infer(address, NAME, picture)


def test_a_model_that_it_has_not_is_named(address: str, digits: Golden, bench: Callable[..., Any]) -> None:
    with pytest.raises(ClientError, match="no nobody here"):
        protocols.infer(address, "nobody", digits.images[0])
    done = bench("--address", address, "--protocol", "open-inference", model="lenet5-digits")
    assert done.stderr == f"modelzoo: {address}: no lenet5-digits here\n"
    done = bench("--address", "127.0.0.1:1", "--protocol", "open-inference")
    assert done.stderr == "modelzoo: no server answers at 127.0.0.1:1\n"
