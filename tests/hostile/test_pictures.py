"""A short form of `python -m tests.hostile.pictures`, which is the test."""

from pathlib import Path

import pytest

from tests.hostile import pictures


@pytest.mark.slow
def test_no_mutated_picture_ends_the_process(tmp_path: Path) -> None:
    decoded, failures = pictures.fuzz(seed=1, count=4_000, folder=tmp_path)
    assert failures == []
    assert decoded > 1_000  # else this would show little
