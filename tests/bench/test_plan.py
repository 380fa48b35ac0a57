"""Options that contradict each other are refused before anything is measured."""

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.plan import Plan, Rate, rate_of


@pytest.mark.parametrize(
    ("text", "rate"), [("120", Rate(120, False)), ("0.7x", Rate(0.7, True)), ("2x", Rate(2, True))]
)
def test_a_rate_is_requests_a_second_or_a_share_of_capacity(text: str, rate: Rate) -> None:
    assert rate_of(text) == rate
    assert str(rate) == text
    assert rate.per_s(50) == (rate.value * 50 if rate.of_capacity else rate.value)


@pytest.mark.parametrize("text", ["", "x", "0", "0x", "-1", "70%", "1e3", "2xx", "nan"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match=r"^no rate"):
        rate_of(text)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"starts": 1, "address": "a:1"}, "--starts"),
        ({"config": Path("c"), "address": "a:1"}, "--config"),
        ({"frontends": 1, "address": "a:1"}, "--frontends"),
        ({"pid": 1}, "--pid"),
        ({"protocol": "open-inference"}, "--protocol"),
        ({"deadline_s": 0.5}, "--deadline-ms"),
        ({"generator": "h2load", "streams": 4}, "h2load"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(BenchError, match=complaint):
        Plan(Path("models"), **options)


def test_loops_that_only_lead_to_an_open_loop_are_short() -> None:
    assert Plan(Path(), seconds=60).loop_s == 60
    assert Plan(Path(), seconds=60, rate=Rate(2, True)).loop_s == 10
    assert Plan(Path(), seconds=3, rate=Rate(2, True)).loop_s == 3
