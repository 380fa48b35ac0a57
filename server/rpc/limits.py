"""What peers may make this process hold."""

from dataclasses import dataclass

# Of the room for the bytes of all connections.
WORTHWHILE_RATIO = 1 / 64  # what holds less is not worth ending calls for
LITTLE_RATIO = 1 / 512  # a connection that holds no more is not rejected for what others hold,
RESERVE_RATIO = 1 / 16  # as long as all of those hold no more than this beyond the room


@dataclass(frozen=True)
class Limits:
    """What peers may make this process hold.

    Attributes:
        max_calls: open calls, but those of the health services.
        max_calls_per_connection: of these, those of one connection.
        max_bytes_per_connection: of its messages, unfinished ones included, and of its unsent answers.
        max_idle_s: that a call may wait for its peer: for a message to come whole, or an answer to be read.
        max_connections: after which gRPC accepts no more.
    """

    max_calls: int
    max_calls_per_connection: int
    max_bytes_per_connection: int
    max_idle_s: float
    max_connections: int


@dataclass(eq=False)
class Pool:
    """Calls of one kind; a pool that is full takes no room from the others.

    Attributes:
        name: for messages.
        limit: calls that may be open.
        share: of them, those of one connection.
        calls: that are open.
    """

    name: str
    limit: int
    share: int
    calls: int = 0
