"""What lasts as long as the process costs no collection anything."""

import gc

import pytest

from server import machine


def is_walked_through(object_: object) -> bool:
    return any(one is object_ for one in gc.get_objects())


def test_what_lasts_is_not_walked_through_again() -> None:
    with machine.lasting():
        assert not gc.isenabled()
        made: list[object] = [[]]
        assert is_walked_through(made)
    assert gc.isenabled()
    assert not is_walked_through(made)
    after: list[object] = [[]]
    assert is_walked_through(after)


def test_a_start_that_fails_leaves_garbage_to_be_collected() -> None:
    with pytest.raises(LookupError), machine.lasting():
        raise LookupError
    assert gc.isenabled()
