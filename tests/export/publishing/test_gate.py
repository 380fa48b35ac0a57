"""A precision passes up to its limit, exactly, and the reason has the figures."""

import pytest

from export.publishing import gate


@pytest.mark.parametrize(
    ("precision", "images", "most"),
    [("fp16", 1000, 5), ("int8", 1000, 10), ("fp16", 360, 1), ("int8", 360, 3)],
)
def test_a_precision_may_lose_as_many_images_as_its_limit_and_not_one_more(
    precision: str, images: int, most: int
) -> None:
    for fp32_correct in (images, images // 2, most + 1):
        assert gate.by_accuracy(precision, fp32_correct, fp32_correct - most, images).passed
        assert not gate.by_accuracy(precision, fp32_correct, fp32_correct - most - 1, images).passed


@pytest.mark.parametrize(
    ("precision", "images", "fewest"),
    [("fp16", 1000, 990), ("int8", 1000, 970), ("fp16", 360, 357), ("int8", 360, 350), ("int8", 1, 1)],
)
def test_a_precision_must_agree_as_often_as_its_limit_and_not_once_less(
    precision: str, images: int, fewest: int
) -> None:
    assert gate.by_agreement(precision, fewest, images).passed
    assert not gate.by_agreement(precision, fewest - 1, images).passed


@pytest.mark.parametrize("scale", [1, 7, 10**15 + 37])
def test_the_limit_is_exact_however_many_images_there_are(scale: int) -> None:
    assert gate.by_accuracy("int8", 100 * scale, 99 * scale, 100 * scale).passed
    assert not gate.by_accuracy("int8", 100 * scale, 99 * scale - 1, 100 * scale).passed
    assert gate.by_agreement("fp16", 99 * scale, 100 * scale).passed
    assert not gate.by_agreement("fp16", 99 * scale - 1, 100 * scale).passed


@pytest.mark.parametrize(
    ("counts", "passed", "reason"),
    [
        ((1252, 1234, 1300), False, "1,234 of 1,300 right (94.9 %), 1.4 points under fp32; 1.0 allowed"),
        ((352, 351, 360), True, "351 of 360 right (97.5 %), 0.3 points under fp32; 1.0 allowed"),
        ((351, 353, 360), True, "353 of 360 right (98.1 %), 0.6 points over fp32; 1.0 allowed"),
        ((360, 360, 360), True, "360 of 360 right (100.0 %), 0.0 points under fp32; 1.0 allowed"),
        ((9999, 9899, 10000), True, "9,899 of 10,000 right (99.0 %), 1.0 points under fp32; 1.0 allowed"),
    ],
)
def test_the_reason_tells_how_many_points_were_lost(
    counts: tuple[int, int, int], passed: bool, reason: str
) -> None:
    assert gate.by_accuracy("int8", *counts) == gate.Verdict(passed, f"int8: {reason}")


def test_a_loss_just_beyond_the_limit_is_not_rounded_to_the_limit() -> None:
    assert gate.by_accuracy("int8", 10000, 9899, 10000).reason == (
        "int8: 9,899 of 10,000 right (99.0 %), 1.1 points under fp32; 1.0 allowed"
    )
    assert gate.by_agreement("fp16", 9899, 10000).reason == (
        "fp16: 9,899 of 10,000 labels are fp32's (98.9 %); 99.0 % wanted"
    )


def test_the_reason_tells_how_many_labels_agree() -> None:
    verdict = gate.by_agreement("int8", 355, 360)
    assert verdict == gate.Verdict(True, "int8: 355 of 360 labels are fp32's (98.6 %); 97.0 % wanted")


def test_a_precision_without_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^there is no rule for precision 'fp32'; there is for fp16, int8$"):
        gate.by_accuracy("fp32", 1, 1, 1)
    with pytest.raises(ValueError, match=r"^there is no rule for precision 'int4'"):
        gate.by_agreement("int4", 1, 1)


@pytest.mark.parametrize("counts", [(0, 0, 0), (11, 10, 10), (10, 11, 10), (10, -1, 10)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"images cannot be$"):
        gate.by_accuracy("int8", *counts)


def test_agreement_with_no_images_proves_nothing() -> None:
    with pytest.raises(ValueError, match=r"^counts \(0,\) of 0 images cannot be$"):
        gate.by_agreement("int8", 0, 0)
