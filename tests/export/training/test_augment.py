"""Training pictures are changed as far as they keep their labels, and no further."""

import pytest
import torch

from export.training import augment


@pytest.mark.parametrize(
    "label",
    [
        *("left", "Right", "turn_left", "TurnRight", "TURN-LEFT", "left2", "leftward", "right-hand drive"),
        *("clockwise", "anticlockwise", "rotate counterclockwise"),
        *("text", "Traffic Signs", "stop sign", "arrow_up", "letters", "digit 4", "number", "characters"),
        *("0", "7", "42", "00013", "seven", "Zero", "a", "Z", "ß", "\N{GREEK SMALL LETTER ALPHA}", "\u6587"),
    ],
)
def test_labels_that_suggest_a_side_are_found_among_others(label: str) -> None:
    assert augment.sided_label(["cat", label, "dog", "left"]) == label


@pytest.mark.parametrize(
    "label",
    [
        *(
            "cat",
            "bright",
            "copyright",
            "cleft",
            "design",
            "signal",
            "texture",
            "context",
            "narrow",
            "lettuce",
        ),
        *(
            "three-toed sloth",
            "one way",
            "boeing 747",
            "n02085620",
            "B-52",
            "T-shirt",
            "",
            "-",
            "\u732b\u732b",
        ),
    ],
)
def test_labels_that_suggest_none_are_left_alone(label: str) -> None:
    assert augment.sided_label(["cat", label]) is None


def test_half_of_the_images_are_mirrored_or_none() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).reshape(1, 1, 8, 1).repeat(1000, 2, 1, 1)  # [N, H, W, C]
    changed = augment.augment(ramp, 0.0, torch.Generator().manual_seed(0), mirror=True)
    mirrored = (changed == ramp.flip(dims=(2,))).flatten(1).all(dim=1)
    assert (mirrored ^ (changed == ramp).flatten(1).all(dim=1)).all()
    assert 450 <= int(mirrored.sum()) <= 550
    assert torch.equal(augment.augment(ramp, 0.0, torch.Generator().manual_seed(0), mirror=False), ramp)
