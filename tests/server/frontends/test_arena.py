"""The memory that a front end shares with the engine: nobody's place is anybody else's, and all come back."""

import fcntl
import mmap
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.frontends import arena
from server.frontends.arena import Arena, Space

SIZE = 4096


def parts(space: Space) -> list[tuple[int, int]]:
    """The free parts: where they begin and end."""
    return list(zip(space._starts, space._stops, strict=True))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, SIZE + 64)), max_size=60))
def test_places_never_overlap_and_all_of_them_come_back(steps: list[tuple[bool, int]]) -> None:
    space = Space(SIZE)
    taken: dict[int, int] = {}  # sizes, by where they begin
    for takes, number in steps:
        if takes:
            start = space.take(number)
            longest = max((stop - begin for begin, stop in parts(space)), default=0)
            if start is None:
                assert longest < max(1, number)
                continue
            assert start not in taken
            taken[start] = number
        elif taken:
            start = sorted(taken)[number % len(taken)]
            del taken[start]
            space.give_back(start)
        used = [(start, start + arena.aligned(max(1, size))) for start, size in taken.items()]
        everything = sorted([*used, *parts(space)])
        assert [begin for begin, _ in everything] == [0, *(stop for _, stop in everything[:-1])]
        assert everything[-1][1] == SIZE
        assert space.free_bytes == SIZE - sum(stop - start for start, stop in used)
    for start in taken:
        space.give_back(start)
    assert parts(space) == [(0, SIZE)]


def test_free_parts_that_touch_become_one() -> None:
    space = Space(SIZE)
    starts = [space.take(1024) for _ in range(4)]
    assert starts == [0, 1024, 2048, 3072]
    assert space.take(1) is None
    for start in (0, 2048, 1024):  # the last one joins both sides
        space.give_back(start)
    assert space.take(3072) == 0


def test_a_place_is_taken_and_given_back_once() -> None:
    space = Space(SIZE)
    start = space.take(1)
    space.give_back(start)
    with pytest.raises(KeyError):
        space.give_back(start)


def test_what_one_process_writes_the_other_sees_until_nobody_looks_any_more() -> None:
    file = arena.create(SIZE)
    ours, theirs = Arena(file, SIZE), Arena(file, SIZE)
    images = ours.pixels(64, (2, 3, 3, 1))
    images[:] = np.arange(18, dtype=np.uint8).reshape(2, 3, 3, 1)
    seen = theirs.pixels(64, (2, 3, 3, 1))
    assert np.array_equal(seen, images)
    theirs.probabilities(1024, (1, 2))[:] = [[0.25, 0.75]]
    assert ours.probabilities(1024, (1, 2)).tolist() == [[0.25, 0.75]]
    os.close(file)
    theirs.close()
    images[0, 0, 0, 0] = 99
    assert seen[0, 0, 0, 0] == 99  # an array holds the memory as long as it needs it


def test_the_memory_cannot_change_its_size_under_a_mapping() -> None:
    file = arena.create(SIZE)
    seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK
    for size in (0, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(file, size)
    mmap.mmap(file, SIZE).close()
    os.close(file)
