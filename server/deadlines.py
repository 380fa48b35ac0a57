"""When a call's time is over, on the clock of `time.monotonic`."""

import time

# By how much a client's own clock may run out before ours: it started earlier, by the way of the request,
# and gRPC rounds up what it tells us of a timeout (by 10 ms, where that is some seconds).
_EARLY_S = 0.02


def over(deadline_s: float | None, now_s: float | None = None) -> bool:
    """Return whether a deadline has passed, rather than that the client hung up; gRPC cancels both alike.

    Args:
        deadline_s: on the clock of `time.monotonic`; None for no deadline.
        now_s: on the same clock; None for now.
    """
    return deadline_s is not None and (time.monotonic() if now_s is None else now_s) >= deadline_s - _EARLY_S


def within(timeout_s: float, deadline_s: float | None) -> float:
    """Return the deadline of a request that brings a time of its own, which begins now.

    Args:
        deadline_s: of the call that carries it; None for no deadline.
    """
    own_s = time.monotonic() + timeout_s
    return own_s if deadline_s is None else min(own_s, deadline_s)
