"""The rule by which a precision may be published beside fp32, or may not.

With labels the accuracy on held-out images decides; without, how often the first label is fp32's. All
comparisons are of whole numbers, so that a precision exactly at the limit passes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is asked of a precision.

    Attributes:
        points_permille: accuracy it may lose against fp32, in thousandths of the images.
        agreement_permille: images that must get fp32's first label, in thousandths.
    """

    points_permille: int
    agreement_permille: int


LIMITS = {
    "fp16": Limits(points_permille=5, agreement_permille=990),
    "int8": Limits(points_permille=10, agreement_permille=970),
}


@dataclass(frozen=True)
class Verdict:
    """Whether a precision may be published.

    Attributes:
        reason: a sentence with the figures, whichever way it went.
    """

    passed: bool
    reason: str


def by_accuracy(precision: str, fp32_correct: int, correct: int, images: int) -> Verdict:
    """Judge by labelled images that nothing was trained or calibrated on.

    Raises:
        ValueError: there is no rule for the precision, or the counts cannot be.
    """
    allowed = _limits(precision).points_permille
    _require(images, fp32_correct, correct)
    lost = fp32_correct - correct
    passed = lost * 1000 <= allowed * images
    points = _tenths(abs(lost) * 1000, images, up=not passed)
    return Verdict(
        passed,
        f"{precision}: {correct:,} of {images:,} right ({_tenths(correct * 1000, images)} %), "
        f"{points} points {'under' if lost >= 0 else 'over'} fp32; {allowed / 10} allowed",
    )


def by_agreement(precision: str, same: int, images: int) -> Verdict:
    """Judge by pictures without labels: on how many is the first label fp32's?

    Raises:
        ValueError: there is no rule for the precision, or the counts cannot be.
    """
    wanted = _limits(precision).agreement_permille
    _require(images, same)
    passed = same * 1000 >= wanted * images
    ratio = _tenths(same * 1000, images, down=not passed)
    return Verdict(
        passed,
        f"{precision}: {same:,} of {images:,} labels are fp32's ({ratio} %); {wanted / 10} % wanted",
    )


def _limits(precision: str) -> Limits:
    if precision not in LIMITS:
        raise ValueError(f"there is no rule for precision {precision!r}; there is for {', '.join(LIMITS)}")
    return LIMITS[precision]


def _require(images: int, *counts: int) -> None:
    if images < 1 or not all(0 <= count <= images for count in counts):
        raise ValueError(f"counts {counts} of {images} images cannot be")


def _tenths(permille: int, images: int, *, up: bool = False, down: bool = False) -> str:
    """Write a quotient with one decimal; what failed is rounded away from its limit."""
    if up:
        tenths = -(-permille // images)
    elif down:
        tenths = permille // images
    else:
        tenths = (2 * permille + images) // (2 * images)
    return f"{tenths // 10}.{tenths % 10}"
