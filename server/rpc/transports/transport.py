"""What every transport is: a port that accepts calls until it is closed, and can be opened anew."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Bounds:
    """What the connections of a port may cost; calls and messages that came are bounded by `rpc`.

    Attributes:
        max_message_bytes: of one message.
        accept_compressed: whether messages may be compressed.
        max_connections: that may be open.
        max_calls_per_connection: that may be open before `rpc` rejects them.
        max_connection_age_s: after which a connection is asked to go.
        max_connection_age_grace_s: that its calls have to end then.
        max_idle_s: that an answer may wait to be read.
    """

    max_message_bytes: int
    accept_compressed: bool
    max_connections: int
    max_calls_per_connection: int
    max_connection_age_s: float
    max_connection_age_grace_s: float
    max_idle_s: float

    @property
    def max_streams(self) -> int:
        """Return the streams of one connection: more than `rpc` admits, so that its own words come first."""
        return max(2048, 2 * self.max_calls_per_connection)


class Transport(Protocol):
    """A port of gRPC; made with its address, its bounds and the methods that it serves.

    Attributes:
        holds_answers: whether it may hold answers that were written and are not read yet.
    """

    holds_answers: bool

    async def open(self) -> None:
        """Open the port.

        Raises:
            RuntimeError: it cannot be had.
        """

    async def accept(self) -> None:
        """Wait for the end of accepting, which should not come before `close`.

        Raises:
            Exception: what ended it.
        """

    async def reopen(self) -> None:
        """Open the port anew where accepting ended; what is in hand goes on.

        Raises:
            RuntimeError: see `open`.
        """

    async def close(self, grace_s: float | None) -> None:
        """Close the port, and cancel the calls that are not answered by then; None cancels them now."""
