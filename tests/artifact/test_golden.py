"""The comparison with PyTorch's answers counts right, excuses rounding only, and reads no strange file."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from artifact import golden
from artifact.errors import GoldenError
from artifact.golden import Comparison, Golden

EXPECTED = np.array([[0.75, 0.25, 0], [0.5, 0.375, 0.125], [0.125, 0.25, 0.625]], np.float32)


def test_equal_answers_differ_by_nothing() -> None:
    assert golden.compare(EXPECTED, EXPECTED.copy(), 1e-5) == Comparison(
        images=3, max_abs_difference=0.0, top1_agreements=3, top1_flips=0, tolerance=1e-5
    )


def test_the_largest_difference_of_any_probability_counts() -> None:
    got = EXPECTED.copy()
    got[1, 2] += 0.0625
    got[2, 0] -= 0.03125
    comparison = golden.compare(EXPECTED, got, 0.0625)
    assert comparison.max_abs_difference == 0.0625
    assert comparison.top1_agreements == 3
    assert comparison.passed


def test_a_difference_may_equal_the_tolerance_and_not_exceed_it() -> None:
    got = EXPECTED + np.float32(0.0625)
    assert golden.compare(EXPECTED, got, 0.0625).passed
    assert not golden.compare(EXPECTED, got, float(np.nextafter(0.0625, 0))).passed


def test_a_flip_counts_only_where_the_margin_exceeds_twice_the_tolerance() -> None:
    # First and second are 0.125 apart, and change places.
    got = EXPECTED.copy()
    got[1] = [0.375, 0.5, 0.125]
    excused = golden.compare(EXPECTED, got, 0.0625)
    assert (excused.top1_agreements, excused.top1_flips) == (2, 0)
    counted = golden.compare(EXPECTED, got, 0.06)
    assert (counted.top1_agreements, counted.top1_flips) == (2, 1)


def test_a_single_label_is_compared_and_never_flips() -> None:
    expected = np.array([[0.75], [0.5]], np.float32)
    assert golden.compare(expected, expected, 1e-5) == Comparison(
        images=2, max_abs_difference=0.0, top1_agreements=2, top1_flips=0, tolerance=1e-5
    )
    other = golden.compare(expected, np.array([[0.75], [0.25]], np.float32), 1e-5)
    assert (other.max_abs_difference, other.top1_agreements, other.top1_flips) == (0.25, 2, 0)
    assert not other.passed


def test_a_flip_fails_even_where_every_difference_is_allowed() -> None:
    assert not Comparison(
        images=3, max_abs_difference=0.0, top1_agreements=2, top1_flips=1, tolerance=1.0
    ).passed


@pytest.mark.parametrize("tolerance", [1e-5, 1.0, float("inf")])
def test_nan_never_passes(tolerance: float) -> None:
    got = EXPECTED.copy()
    got[2, 0] = np.nan
    comparison = golden.compare(EXPECTED, got, tolerance)
    assert np.isnan(comparison.max_abs_difference)
    assert not comparison.passed
    with pytest.raises(GoldenError, match="up to nan"):
        comparison.require("anything")
    assert not golden.compare(got, EXPECTED, tolerance).passed
    assert not golden.compare(got, got, tolerance).passed


def test_no_difference_passes_a_tolerance_that_is_no_number() -> None:
    assert not golden.compare(EXPECTED, EXPECTED, float("nan")).passed


def test_a_failed_comparison_says_what_and_by_how_much() -> None:
    got = EXPECTED[:, [1, 0, 2]]
    comparison = golden.compare(EXPECTED, got, 1e-5)
    with pytest.raises(GoldenError) as caught:
        comparison.require("batch size 7")
    assert str(caught.value) == (
        "batch size 7: answers differ from the reference's by up to 0.5 (allowed 1e-05), "
        "2 of 3 labels changed"
    )
    golden.compare(EXPECTED, EXPECTED, 1e-5).require("batch size 7")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (EXPECTED, EXPECTED[:2]),
        (EXPECTED, EXPECTED[:, :2]),
        (EXPECTED, EXPECTED.T[:, :2]),
        (EXPECTED, EXPECTED[..., np.newaxis]),
        (EXPECTED[:0], EXPECTED[:0]),
    ],
    ids=["rows", "labels", "both", "axes", "nothing"],
)
def test_other_shapes_are_not_compared(expected: np.ndarray, got: np.ndarray) -> None:
    with pytest.raises(GoldenError, match=r"^expected probabilities of shape \("):
        golden.compare(expected, got, 1.0)


def sample() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "images": generator.integers(0, 256, (3, 4, 5, 1), np.uint8),
        "probabilities": EXPECTED,
    }


def write(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_a_golden_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    own = sample()["probabilities"][::-1].copy()
    written = Golden(**sample(), own={"int8": own})
    golden.write(tmp_path / "golden.npz", written)
    read = golden.read(tmp_path / "golden.npz")
    for name in ("images", "probabilities"):
        array = getattr(read, name)
        assert array.dtype == getattr(written, name).dtype
        np.testing.assert_array_equal(array, getattr(written, name))
    assert list(read.own) == ["int8"]
    np.testing.assert_array_equal(read.expected("int8"), own)
    np.testing.assert_array_equal(read.expected("fp16"), written.probabilities)


def test_a_precisions_own_answers_must_be_as_many_as_the_references(tmp_path: Path) -> None:
    few = sample()["probabilities"][:1]
    golden.write(tmp_path / "golden.npz", Golden(**sample(), own={"int8": few}))
    with pytest.raises(GoldenError, match="does not hold a precision's answers as it does the reference's"):
        golden.read(tmp_path / "golden.npz")


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        saved(EXPECTED),
        zipped(),
        zipped(images=saved(sample()["images"])),
        zipped(images=b"pixels", probabilities=saved(EXPECTED)),
        zipped(images=saved(sample()["images"])[:20], probabilities=saved(EXPECTED)),
    ],
    ids=["empty", "text", "one array", "no member", "no answers", "no array", "truncated array"],
)
def test_what_is_no_golden_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(content)
    with pytest.raises(GoldenError, match=r"^golden\.npz "):
        golden.read(path)


def test_a_missing_golden_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match=r"^golden\.npz cannot be read: .*No such file"):
        golden.read(tmp_path / "golden.npz")


class Trap:
    """Unpickling it would show."""

    sprung = False

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    trap = np.array([Trap()], dtype=object)
    path = write(tmp_path / "golden.npz", **(sample() | {"images": trap}))
    with pytest.raises(GoldenError, match="pickled objects, which are never read"):
        golden.read(path)
    assert not Trap.sprung
    with np.load(path, allow_pickle=True) as arrays:  # the trap would have worked
        assert arrays["images"].shape == (1,)
    assert Trap.sprung


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": sample()["images"].astype(np.float32)},
        {"images": sample()["images"].astype(np.int8)},
        {"images": sample()["images"][..., 0]},
        {"probabilities": EXPECTED.astype(np.float64)},
        {"probabilities": EXPECTED[0]},
        {"probabilities": EXPECTED[:2]},
        {"images": sample()["images"][:0], "probabilities": EXPECTED[:0]},
    ],
    ids=["float images", "signed images", "no channels", "doubles", "one row", "a row less", "no rows"],
)
def test_arrays_of_another_kind_are_refused(tmp_path: Path, wrong: dict[str, np.ndarray]) -> None:
    path = write(tmp_path / "golden.npz", **(sample() | wrong))
    with pytest.raises(GoldenError, match=r"^golden\.npz does not hold "):
        golden.read(path)


def test_a_damaged_golden_file_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    content = write(tmp_path / "golden.npz", **sample()).read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            read = golden.read(tmp_path / "damaged.npz")
        except GoldenError:
            refused += 1
        else:
            assert read.images.dtype == np.uint8
            assert len(read.images) == len(read.probabilities)
    assert refused > 100
