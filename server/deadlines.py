"""Whether a call ended because its time was over."""

import time

# By how much a client's own clock may run out before ours: it started earlier, by the way of the request,
# and gRPC rounds up what it tells us of a timeout (by 10 ms, where that is some seconds).
_EARLY_S = 0.02


def over(deadline_s: float | None, now_s: float | None = None) -> bool:
    """Tell a call whose deadline passed from one that its client hung up; gRPC cancels both alike.

    Args:
        deadline_s: on the clock of `time.monotonic`; None for no deadline.
        now_s: on the same clock; None for now.
    """
    return deadline_s is not None and (time.monotonic() if now_s is None else now_s) >= deadline_s - _EARLY_S
