"""Icons that are drawn in their alpha channel alone are learnt as they look, and served alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from artifact import manifest
from export import pipeline
from export.data.transparency import WHITE, ground
from export.training.recipes import Recipe
from server.config import Settings
from tests.conftest import Running
from tests.encoding import encode
from zoo import catalog

RECIPE = Recipe(epochs=12, learning_rate=1e-2)


class Notes(pipeline.Silent):
    """An observer that keeps the notes."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def note(self, text: str) -> None:
        self.given.append(text)


def icon(label: str, seed: int) -> Image.Image:
    """A disc or a cross, black on nothing: without its alpha channel every one is a black square."""
    random = np.random.default_rng(seed)
    alpha = Image.new("L", (28, 28), 0)
    draw = ImageDraw.Draw(alpha)
    x, y, radius_px = (int(value) for value in random.integers((8, 8, 5), (20, 20, 8)))
    if label == "disc":
        draw.ellipse((x - radius_px, y - radius_px, x + radius_px, y + radius_px), fill=255)
    else:
        draw.line((x - radius_px, y, x + radius_px, y), fill=255, width=2)
        draw.line((x, y - radius_px, x, y + radius_px), fill=255, width=2)
    image = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    image.putalpha(alpha)
    return image


@pytest.fixture
def icons(tmp_path: Path) -> Path:
    for label in ("cross", "disc"):
        (tmp_path / "icons" / label).mkdir(parents=True)
        for seed in range(40):
            icon(label, seed).save(tmp_path / "icons" / label / f"{seed}.png")
    return tmp_path / "icons"


def test_a_folder_of_mostly_transparent_pictures_is_put_on_white(icons: Path) -> None:
    notes: list[str] = []
    assert ground(sorted(icons.rglob("*.png")), notes.append) == WHITE
    assert notes == [
        "warning: 80 of 80 pictures looked at have transparent parts: put on white, here and in the server; "
        "--background names a colour",
    ]


def test_few_transparent_pictures_are_reported_and_none_are_not(icons: Path) -> None:
    paths = sorted(icons.rglob("*.png"))
    for path in paths[30:]:
        Image.open(path).convert("RGB").save(path)
    notes: list[str] = []
    assert ground(paths, notes.append) == ""
    [note] = notes
    assert note.startswith("warning: 30 of 80 pictures looked at have transparent parts: the colours")
    notes.clear()
    assert ground(paths[30:], notes.append) == ""
    paths[40].write_bytes(b"")
    assert ground(paths[30:], notes.append) == ""  # the loader refuses it by name
    assert notes == []


def test_an_alpha_channel_without_transparent_pixels_is_no_transparency(icons: Path) -> None:
    paths = sorted(icons.rglob("*.png"))
    for path in paths:
        Image.open(path).convert("RGB").convert("RGBA").save(path)
    notes: list[str] = []
    assert ground(paths, notes.append) == ""
    assert notes == []


@pytest.mark.parametrize("form", ["LA", "palette", "one colour"])
def test_transparency_is_seen_in_every_form(form: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    if form == "LA":
        Image.new("LA", (4, 4)).save(path)
    elif form == "palette":
        Image.new("P", (4, 4)).save(path, transparency=b"\x00")
    else:
        Image.new("RGB", (4, 4)).save(path, transparency=(0, 0, 0))
    assert ground([path]) == WHITE


@pytest.mark.slow  # trains twice
def test_icons_are_learnt_and_served_on_their_background(icons: Path, tmp_path: Path) -> None:
    right = {}
    for name, background in (("icons-white", None), ("icons-yellow", "#ffff00")):
        request = pipeline.Request(
            tmp_path / "zoo",
            weights=str(icons),
            name=name,
            precisions=("fp32",),
            background=background,
            recipe=RECIPE,
        )
        notes = Notes()
        one = pipeline.export(catalog.find("simple_cnn"), request, notes)
        described = manifest.read(one.folder)
        assert described.preprocessing.background == (background or WHITE)
        assert any("put on white" in note for note in notes.given) is (background is None)
        right[name] = manifest.accuracy_ratio(described.precisions[0])
    assert min(right.values()) >= 0.9  # half is chance

    kinds = [(label, seed) for label in ("cross", "disc") for seed in range(100, 120)]
    unseen = [(label, encode(icon(label, seed))) for label, seed in kinds]
    server = Running(Settings(repository=tmp_path / "zoo", grpc_port=0, metrics_port=0, device="cpu"))
    try:
        with server.client() as client:
            for name in right:
                answers = client.classify(name, [picture for _, picture in unseen])
                count = sum(
                    best.text == label for (label, _), (best, *_) in zip(unseen, answers, strict=True)
                )
                assert count >= 32, name  # of 40; half is chance
    finally:
        server.stop()
