"""The peer whose call a task answers, for what is shared among peers."""

from contextvars import ContextVar

_PEER: ContextVar[str] = ContextVar("peer", default="")


def answer_to(peer: str) -> None:
    """Note whose call this task answers; tasks that it creates inherit it."""
    _PEER.set(peer)


def current_peer() -> str:
    """Return whose call this task answers, as gRPC writes it; empty where it answers none."""
    return _PEER.get()
