"""`modelzoo import` and `modelzoo card`, as processes of their own."""

from pathlib import Path

import pytest

from artifact import manifest
from cli.terminal import preparation
from modelzoo.v1 import manifest_pb2
from tests.cli.process import Run
from tests.export.onnx_import.onnx_files import convolutional, saved


@pytest.mark.slow  # every process imports torch
def test_import_publishes_and_says_what_it_changed(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    done = run("import", path, "--name", "pets-import", "--labels", "labels.txt", "--std", ".25,.25,.25")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("models/pets-import/1 fp32: accuracy not measured, at most ")
    assert done.stdout.endswith(" from ONNX Runtime\n")
    assert "changed: a softmax makes probabilities of the file's scores" in done.stderr


@pytest.mark.slow
def test_import_warns_of_probabilities_that_need_not_sum_to_1(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional(last="Sigmoid"))
    (tmp_path / "labels.json").write_text('{"ant": 0, "bee": 1, "cat": 2, "dog": 3, "elk": 4}')
    arguments = ("--name", "tags-import", "--labels", "labels.json")
    done = run("import", path, *arguments)
    assert done.returncode == 1
    assert "it ends in a Sigmoid" in done.stderr
    done = run("import", path, *arguments, "--activation", "sigmoid")
    assert done.returncode == 0, done.stderr
    warning = "warning: labels are independent; the probabilities of a picture need not sum to 1"
    assert warning in done.stderr
    assert (tmp_path / "models/tags-import/1/labels.txt").read_text() == "ant\nbee\ncat\ndog\nelk\n"


@pytest.mark.slow
def test_import_takes_a_makers_preprocessing_and_warns_where_none_is_given(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    plain = run("import", path, "--name", "pets-plain")
    assert "warning: assumed, as neither options nor the file say it: values 0..1" in plain.stderr
    done = run(
        *(
            "import",
            path,
            "--name",
            "pets-letterbox",
            "--preset",
            "keras-caffe",
            "--resize-mode",
            "letterbox",
        ),
        *("--fill", "0,10,255", "--interpolation", "opencv-nearest", "--channels", "rgb", "--scale", "1/255"),
        *("--mean", "0.5", "--std", "0.25,0.5,1", "--background", "White"),
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    described = manifest.read(tmp_path / "models" / "pets-letterbox" / "1")
    assert described.preprocessing == manifest_pb2.Preprocessing(
        resize_mode=manifest_pb2.RESIZE_MODE_LETTERBOX,
        fill="#000aff",
        interpolation=manifest_pb2.INTERPOLATION_OPENCV_NEAREST,
        background="#ffffff",
    )
    assert list(described.input.mean) == [0.5] * 3
    assert list(described.input.std) == [0.25, 0.5, 1.0]
    assert described.input.channel_order == manifest_pb2.CHANNEL_ORDER_RGB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--preset", "caffe"), "no preset is called 'caffe'; there are torchvision, timm, "),
        (("--fill", "256,0,0"), "--fill '256,0,0' is no colour: white, black, #rrggbb or R,G,B of 0 to 255"),
        (("--background", "none"), "--background 'none' is no colour"),
        (("--scale", "1/0"), "--scale '1/0' is not numbers or fractions separated by commas"),
        (
            ("--interpolation", "nearest", "--scaled-decoding"),
            "scaled decoding needs an interpolation that averages over the source: bilinear, bicubic, ",
        ),
        (
            ("--resize-mode", "letterbox", "--crop", "0.9"),
            "with the resize mode letterbox nothing is cropped",
        ),
        (("--resize", "256px"), "--resize '256px' is neither N nor HxW, in pixels"),
        (("--crop", "1.5"), "--crop '1.5' is neither a size in pixels nor a ratio up to 1"),
        (("--crop", "9"), "its height is 8, not 9"),
        (
            ("--crop", "8", "--input", "9x8"),
            "--crop 8 is not the size of --input 9x8",
        ),
        (("--input", "large"), "--input 'large' is not HxW, HxW:nchw or HxW:nhwc"),
        (("--mean", "half"), "--mean 'half' is not numbers separated by commas"),
        (("--labels", "nowhere.txt"), "nowhere.txt"),
        (("--activation", "tanh"), "--activation 'tanh' is not one of auto, softmax, sigmoid, none"),
        (("--activation", "none"), "its scores are no probabilities, some are not in 0..1"),
        (
            ("--precision", "int8"),
            "int8 needs pictures to be calibrated on: name a folder with --calibration",
        ),
    ],
)
def test_import_refuses_in_one_line(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    path = saved(tmp_path / "theirs.onnx", *convolutional())
    done = run("import", path, "--name", "pets-import", *arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("modelzoo: ")
    assert complaint in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_card_prints_the_page_and_names_the_pictures(run: Run, repository: Path) -> None:
    done = run("card", "lenet5-digits", "--repository", repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "61,706 parameters" in done.stdout
    for picture in ("confusion.png", "latency.png", "loss.png", "mistakes.png"):
        assert f"{repository}/lenet5-digits/1/card/{picture}\n" in done.stdout


def test_card_of_a_stranger_is_refused_and_the_known_are_named(run: Run, repository: Path) -> None:
    done = run("card", "lenet6-digits", "--repository", repository)
    assert done.returncode == 1
    assert done.stderr.startswith(f"modelzoo: {repository} holds no model called 'lenet6-digits'; there is: ")
    assert "lenet5-digits" in done.stderr


@pytest.mark.parametrize(
    ("said", "size_px", "ratio"),
    [
        (None, None, None),
        ("224", (224, 224), None),
        ("48x192", (48, 192), None),
        ("0.875", None, 0.875),
        ("224/256", None, 0.875),
        ("1", None, 1.0),
    ],
)
def test_a_crop_is_a_size_or_a_ratio(
    said: str | None, size_px: tuple[int, int] | None, ratio: float | None
) -> None:
    assert preparation.cropped(said) == (size_px, ratio)
