"""A short form of `make test-hostile`: every attack for two seconds, by turns, on one server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.hostile import fuzz, shutdown
from bench.hostile.__main__ import Plan, assail
from bench.hostile.attacks import ATTACKS, Attack
from bench.hostile.subject import Subject, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def subject(repository: Path) -> Iterator[Subject]:
    with serving(repository) as subject:
        assert subject.answers()
        yield subject


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_ends_starves_bloats_and_blinds_nothing(
    subject: Subject, repository: Path, attack: Attack
) -> None:
    plan = Plan(repository, seconds=2.0, rest_s=10.0, rounds=1, apart=False)
    # In the long form memory has a minute to come back; here it has ten seconds.
    assert assail(subject, plan, attack).misses == []


def test_mutated_calls_end_and_hang_nothing(subject: Subject) -> None:
    fuzz.run(subject, seed=1, calls=2_000)


@pytest.mark.parametrize("state", shutdown.STATES)
def test_every_request_that_was_accepted_before_sigterm_is_answered(repository: Path, state: str) -> None:
    assert shutdown.lost(repository, state) == 0
