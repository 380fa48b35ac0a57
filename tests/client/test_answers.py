"""Whatever a server or a proxy answers, a client gets labels or a ClientError with a code."""

from collections.abc import Callable

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from client import Client, ClientError

EXHAUSTED, INVALID = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
Answer = Callable[[bytes, grpc.ServicerContext], bytes]
Serve = Callable[[Answer], Client]


class Everything(grpc.GenericRpcHandler):
    """Answers every call the same way, in bytes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)


@pytest.fixture
def serve(client_of: Callable[[grpc.GenericRpcHandler], Client]) -> Serve:
    """Starts servers that answer as they are told to, and gives clients of them."""
    return lambda answer: client_of(Everything(answer))


def refusal(details: bytes | None, code: grpc.StatusCode = EXHAUSTED, message: str = "full") -> Answer:
    """Refuses with these bytes where the details of the status should be."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, message)
        raise AssertionError("abort raises")

    return answer


def status(*details: Any, code: grpc.StatusCode | int = EXHAUSTED, message: str = "full") -> bytes:
    number = code if isinstance(code, int) else code.value[0]
    return status_pb2.Status(code=number, message=message, details=details).SerializeToString()


def packed(detail: error_details_pb2.RetryInfo | error_details_pb2.BadRequest) -> Any:
    any_detail = Any()
    any_detail.Pack(detail)
    return any_detail


RETRY = packed(error_details_pb2.RetryInfo(retry_delay={"seconds": 2, "nanos": 500_000_000}))
FIELD = packed(error_details_pb2.BadRequest(field_violations=[{"field": "images[3]"}, {"field": "top_k"}]))
NO_FIELD = packed(error_details_pb2.BadRequest())
OTHER = Any(type_url="type.googleapis.com/google.rpc.Nonsense", value=b"\xff")


def damaged(detail: Any) -> Any:
    """A detail of the same kind whose content is none."""
    return Any(type_url=detail.type_url, value=b"\xff\xff\xff")


def refused(client: Client) -> ClientError:
    with pytest.raises(ClientError) as caught:
        client.list_models()
    return caught.value


@pytest.mark.parametrize(
    "details",
    [
        None,
        b"\xff\xff\xff",
        status(RETRY)[:-1],
        status(RETRY, code=INVALID),
        status(RETRY, code=99),
        status(RETRY, message="another"),
    ],
    ids=["none", "garbage", "truncated", "another code", "no code", "another message"],
)
def test_details_that_are_not_the_refusals_are_passed_over(serve: Serve, details: bytes | None) -> None:
    error = refused(serve(refusal(details)))
    assert (error.code, str(error)) == (EXHAUSTED, "full")
    assert (error.field, error.retry_delay_s, error.from_server) == ("", None, False)


@pytest.mark.parametrize(
    ("details", "field", "retry_delay_s"),
    [
        ([], "", None),
        ([RETRY, FIELD], "images[3]", 2.5),
        ([damaged(FIELD), RETRY], "", 2.5),
        ([damaged(RETRY), FIELD], "images[3]", None),
        ([OTHER, NO_FIELD, RETRY], "", 2.5),
    ],
    ids=["none", "both", "damaged field", "damaged delay", "unknown"],
)
def test_of_the_details_what_can_be_read_is(
    serve: Serve, details: list[Any], field: str, retry_delay_s: float | None
) -> None:
    error = refused(serve(refusal(status(*details))))
    assert (error.code, str(error)) == (EXHAUSTED, "full")
    assert (error.field, error.retry_delay_s, error.from_server) == (field, retry_delay_s, True)


def test_a_refusal_without_a_word_is_called_by_its_code(serve: Serve) -> None:
    error = refused(serve(refusal(None, INVALID, "")))
    assert (error.code, str(error)) == (INVALID, "INVALID_ARGUMENT")


def test_an_answer_that_cannot_be_read_is_an_internal_error(serve: Serve) -> None:
    client = serve(lambda request, context: b"\xff\xff\xff")
    for call in (
        lambda: client.classify("net", [b"a picture"]),
        client.list_models,
        lambda: client.get_model("net"),
        client.is_serving,
    ):
        with pytest.raises(ClientError, match="deserializing") as caught:
            call()
        assert caught.value.code is grpc.StatusCode.INTERNAL
        assert not caught.value.from_server


def test_an_error_that_is_no_call_has_a_code_too() -> None:
    def fail(request: object, timeout: float) -> object:
        raise grpc.RpcError("an interceptor's")

    with Client("127.0.0.1:1") as client, pytest.raises(ClientError, match=r"^an interceptor's$") as caught:
        client._call(fail, None)
    assert caught.value.code is grpc.StatusCode.UNKNOWN


def test_an_answer_to_another_number_of_pictures_is_an_internal_error(serve: Serve) -> None:
    client = serve(lambda request, context: b"")
    with pytest.raises(ClientError, match=r"^the server sent 0 classifications for 1 pictures$") as caught:
        client.classify("net", [b"a picture"])
    assert caught.value.code is grpc.StatusCode.INTERNAL
