"""What a transport gives for each call, and what it is given to answer calls with."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from server.errors import ModelZooError

Headers: TypeAlias = Sequence[tuple[str, str | bytes]]


class PeerGoneError(Exception):
    """Nothing reaches the peer of the call any more; its task is about to be cancelled."""


class Context(Protocol):
    """One call, as its transport has it."""

    def peer(self) -> str:
        """Return the other end, as gRPC writes it: ``ipv4:127.0.0.1:50000``."""

    def headers(self) -> Headers:
        """Return the client's metadata: names in lower case; bytes where the name ends with ``-bin``."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the call's deadline; None where the client set none."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have a callback called once when the call has ended, whatever became of it."""

    async def read(self) -> bytes | None:
        """Wait for the next message; None where the peer sends no more.

        Raises:
            ModelZooError: what came is no message, or too large a one.
            PeerGoneError: the call has ended already.
        """

    async def write(self, bodies: Sequence[bytes]) -> None:
        """Send messages, in their order, and wait until the transport has taken them off our hands.

        Raises:
            PeerGoneError: the call has ended already.
        """


@dataclass(frozen=True)
class Method:
    """How calls of a method are answered.

    Attributes:
        answer: serves a call, and returns its only answer, or the error that is its status; what it returns
            is not sent where the method writes its answers itself.
        answers_once: whether it returns the only answer.
    """

    answer: Callable[[Context], Awaitable[bytes | ModelZooError]]
    answers_once: bool


Methods: TypeAlias = dict[str, Method]  # by their name, or by the whole path: /package.Service/Method
