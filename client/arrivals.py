"""When the requests of an open loop arrive."""

import numpy as np

from client.load import Floats


def poisson(rate_per_s: float, seconds: float, seed: int) -> Floats:
    """Draw arrivals that know nothing of each other.

    Args:
        rate_per_s: arrivals per second, on average.
        seconds: how long they go on.
        seed: the same gives the same arrivals.

    Returns:
        Seconds after the beginning, ascending, below ``seconds``.

    Raises:
        ValueError: the rate or the time is not above zero.
    """
    if not (rate_per_s > 0 and seconds > 0):
        raise ValueError(f"nothing arrives at {rate_per_s:g} a second for {seconds:g} s")
    random = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are spread evenly.
    return np.sort(random.uniform(0, seconds, random.poisson(rate_per_s * seconds)))
