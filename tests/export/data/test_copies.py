"""Copies are found by their bytes and by their looks, and what only resembles another picture is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from export.data import copies, reading


def numbers(folder: Path) -> dict[str, int]:
    used = reading.read([(folder, 0)]).used
    return {one.path.name: number for one, number in zip(used, copies.near(used).tolist(), strict=True)}


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Return 24 parts of two photographs, 200 x 200 pixels each."""
    found = [Image.fromarray(image) for image in load_sample_images().images]
    corners = [(left, top) for left in range(0, 440, 110) for top in range(0, 226, 75)][:12]
    return [image.crop((left, top, left + 200, top + 200)) for image in found for left, top in corners]


def test_a_picture_in_another_size_quality_or_format_is_a_copy(
    tmp_path: Path, photographs: list[Image.Image]
) -> None:
    for number, image in enumerate(photographs):
        image.save(tmp_path / f"{number}-a.png")
        image.save(tmp_path / f"{number}-b.jpg", quality=60)
        image.resize((150, 150)).save(tmp_path / f"{number}-c.jpg", quality=85)
        image.resize((91, 91)).save(tmp_path / f"{number}-d.webp", quality=80)
    found = numbers(tmp_path)
    groups = {name.partition("-")[0]: set() for name in found}
    for name, number in found.items():
        groups[name.partition("-")[0]].add(number)
    assert all(len(group) == 1 for group in groups.values()), groups
    assert len(set(found.values())) == len(photographs)


def test_pictures_that_only_resemble_each_other_are_no_copies(tmp_path: Path) -> None:
    digits = load_digits().images[:300]
    for number, digit in enumerate(digits):
        Image.fromarray((digit * 15.9).astype(np.uint8)).save(tmp_path / f"{number:03}.png")
    assert len(set(numbers(tmp_path).values())) == 300


def test_drawings_in_the_alpha_channel_alone_are_no_copies(tmp_path: Path) -> None:
    for number, digit in enumerate(load_digits().images[:20]):
        icon = Image.new("LA", (8, 8))
        icon.putalpha(Image.fromarray((digit * 15.9).astype(np.uint8)))
        icon.save(tmp_path / f"{number:02}.png")
    assert len(set(numbers(tmp_path).values())) == 20


def test_many_pictures_are_searched_in_parts_with_the_same_result(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (8, 8), 200).save(tmp_path / "b.png")
    one, other = reading.read([(tmp_path, 0)]).used
    assert copies.near([one, other] * 1500).tolist() == [0, 1] * 1500


def test_equal_bytes_are_copies_whatever_they_show(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    Image.new("L", (8, 8), 200).save(tmp_path / "c.png")
    found = numbers(tmp_path)
    assert found["a.png"] == found["b.png"] != found["c.png"]
    used = reading.read([(tmp_path, 0)]).used
    assert copies.exact(used).tolist() == [0, 0, 1]
