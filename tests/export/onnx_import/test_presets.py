"""A preset does to photographs what its library does: the file's own answers, to 1e-5 of probability.

References are Pillow and torchvision themselves; for what OpenCV does, its formulas in `tests/opencv.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from artifact import pictures
from client import Client
from export import pipeline
from export.graph import verification
from export.onnx_import import conversion
from export.onnx_import.conversion import ImportRequest
from export.onnx_import.presets import PRESETS
from modelzoo.v1 import manifest_pb2
from server.config import Settings
from tests.conftest import Running
from tests.encoding import encode
from tests.export.onnx_import.onnx_files import (
    IMAGENET,
    K,
    convolutional,
    refused,
    saved,
    softmax,
    some_images,
    wrapped,
)
from tests.opencv import opencv_linear

H, W = 28, 36
MEAN, STD = np.array(IMAGENET["mean"]), np.array(IMAGENET["std"])
RAW = ("keras-caffe", "opencv", "raw")  # values up to 255: such a network has small weights


@cache
def patches() -> tuple[Image.Image, ...]:
    """Pieces of two photographs, of 24 sizes: portrait and landscape, larger and smaller than the input."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(0)
    made = []
    for index in range(24):
        width_px, height_px = (int(side_px) for side_px in random.integers(20, 110, 2))
        left, top = int(random.integers(0, 640 - width_px)), int(random.integers(0, 427 - height_px))
        made.append(photographs[index % 2].crop((left, top, left + width_px, top + height_px)))
    return tuple(made)


def torchvision_s(resize_px: int, mode: InterpolationMode) -> Callable[[Image.Image], np.ndarray]:
    chain = transforms.Compose(
        [
            transforms.Resize(resize_px, mode),
            transforms.CenterCrop((H, W)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET["mean"], IMAGENET["std"]),
        ]
    )
    return lambda image: chain(image).numpy()


def keras_s(image: Image.Image) -> np.ndarray:
    """`load_img(path, target_size=(H, W))` and `img_to_array`: float [H, W, C] of 0..255."""
    return np.asarray(image.resize((W, H), Image.Resampling.NEAREST), np.float32)


def paddle_s(image: Image.Image) -> np.ndarray:
    resize_px = round(W / 0.875)
    ratio = resize_px / min(image.size)
    width_px, height_px = (round(side_px * ratio) for side_px in image.size)
    whole = opencv_linear(np.asarray(image), width_px, height_px)
    top, left = (height_px - H) // 2, (width_px - W) // 2
    return (whole[top : top + H, left : left + W] / 255 - MEAN) / STD


def raw(image: Image.Image) -> np.ndarray:
    chain = transforms.Compose([transforms.Resize(W), transforms.CenterCrop((H, W))])
    return np.asarray(chain(image))


def planes(values: np.ndarray) -> np.ndarray:
    return values.transpose(2, 0, 1)


REFERENCES: dict[str, Callable[[Image.Image], np.ndarray]] = {  # float [C, H, W]
    "torchvision": torchvision_s(41, InterpolationMode.BILINEAR),
    "timm": torchvision_s(41, InterpolationMode.BICUBIC),
    "keras-caffe": lambda image: planes(keras_s(image)[..., ::-1] - np.array([103.939, 116.779, 123.68])),
    "keras-tf": lambda image: planes(keras_s(image) / 127.5 - 1),
    "keras-torch": lambda image: planes((keras_s(image) / 255 - MEAN) / STD),
    "opencv": lambda image: planes(opencv_linear(np.asarray(image), W, H)[..., ::-1]),
    "paddle": lambda image: planes(paddle_s(image)),
    "raw": lambda image: planes(raw(image)),
}


def classifier(path: Path, preset: str = "", **options: Any) -> Path:
    nodes, tensors = convolutional()
    if preset in RAW:
        values = onnx.numpy_helper.to_array(tensors[0]) / 64
        tensors[0].CopyFrom(onnx.numpy_helper.from_array(values, tensors[0].name))
    return saved(path, nodes, tensors, **({"sides": ("n", 3, H, W)} | options))


@cache
def prepared(preset: str) -> np.ndarray:
    """All patches as the library prepares them, float32 [N, C, H, W]."""
    return np.stack([REFERENCES[preset](patch).astype(np.float32) for patch in patches()])


def expected(path: Path, preset: str) -> np.ndarray:
    """The file's own probabilities, [N, K], of pictures as the library prepares them."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [scores] = session.run(None, {"x": prepared(preset)})
    return softmax(scores.astype(np.float64))


def decoded(found: conversion.Wrapped) -> np.ndarray:
    spec = found.input_spec
    shape = manifest_pb2.Input(height=spec.height, width=spec.width, channels=spec.channels)
    return np.stack([pictures.decode(encode(patch), shape, found.preprocessing) for patch in patches()])


def test_every_preset_has_a_reference() -> None:
    assert REFERENCES.keys() == PRESETS.keys()
    assert len({patch.size for patch in patches()}) == 24


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_answers_as_its_library_prepares(preset: str, tmp_path: Path) -> None:
    path = classifier(tmp_path / "theirs.onnx", preset)
    found, target = wrapped(path, ImportRequest(preset=preset))
    answers = verification.open_on_cpu(target)(decoded(found))
    wanted = expected(path, preset)
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(answers.argmax(axis=1), wanted.argmax(axis=1))
    assert found.notes == ()
    others = [expected(path, other) for other in PRESETS if other != preset]
    assert min(np.abs(answers - other).max() for other in others) > 1e-3  # it could have been told


@contextmanager
def served(repository: Path) -> Iterator[Client]:
    server = Running(Settings(repository=repository, grpc_port=0, metrics_port=0, device="cpu"))
    try:
        with server.client() as client:
            yield client
    finally:
        server.stop()


@pytest.mark.slow  # eight imports and a server
def test_a_server_answers_as_every_library_prepares(tmp_path: Path) -> None:
    paths = {preset: classifier(tmp_path / f"{preset}.onnx", preset) for preset in PRESETS}
    for preset, path in paths.items():
        one = pipeline.import_(path, ImportRequest(preset=preset), repository=tmp_path / "zoo", name=preset)
        bgr = preset in ("keras-caffe", "opencv")
        assert (one.manifest.input.channel_order == manifest_pb2.CHANNEL_ORDER_BGR) is bgr
    with served(tmp_path / "zoo") as client:
        for preset, path in paths.items():
            answers = client.classify(preset, [encode(patch) for patch in patches()], top_k=K)
            for labels, row in zip(answers, expected(path, preset), strict=True):
                assert labels[0].text == str(row.argmax())
                for label in labels:
                    assert label.probability == pytest.approx(row[int(label.text)], abs=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
@pytest.mark.parametrize("channels_first", [True, False])
def test_bgr_is_made_in_the_graph_for_clients_that_send_rgb(
    channels_first: bool, kind: int, tmp_path: Path
) -> None:
    axes = [2, 3] if channels_first else [1, 2]
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["n"], ["f"], axes=axes, keepdims=0),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1, alpha=0.01),
    ]
    given = np.random.default_rng(3).normal(size=(K, 3)).astype(np.float32)
    path = saved(
        tmp_path / "theirs.onnx",
        nodes,
        [onnx.numpy_helper.from_array(given, "v")],
        ("b", 3, 8, 8) if channels_first else ("b", 8, 8, 3),
        kind=kind,
    )
    normalised = {} if kind == TensorProto.UINT8 else {"scale": (1.0,), "mean": (1.0, 2.0, 3.0)}
    found, target = wrapped(path, ImportRequest(channel_order="bgr", **normalised))
    images = some_images(4, 8, 8, 3)
    means = images.mean(axis=(1, 2))[:, ::-1] - ([1, 2, 3] if normalised else [0, 0, 0])
    np.testing.assert_allclose(
        verification.open_on_cpu(target)(images), softmax(means * 0.01 @ given.T), rtol=0, atol=1e-6
    )
    assert found.channel_order == manifest_pb2.CHANNEL_ORDER_BGR
    if normalised:  # written of red, green, blue, on the scale 0..1
        np.testing.assert_allclose(found.input_spec.mean, np.array([3, 2, 1]) / 255)


def test_a_scale_for_each_channel_comes_before_mean_and_std(tmp_path: Path) -> None:
    path = classifier(tmp_path / "theirs.onnx")
    scale, mean, std = (1 / 255, 1 / 128, 1 / 64), (0.5, 0.25, 1.0), (0.5,)
    _, target = wrapped(path, ImportRequest(scale=scale, mean=mean, std=std))
    images = some_images(3, H, W, 3)
    values = ((images * np.array(scale) - np.array(mean)) / std[0]).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = softmax(session.run(None, {"x": values})[0])
    np.testing.assert_allclose(verification.open_on_cpu(target)(images), wanted, rtol=0, atol=1e-5)


def test_a_single_option_overrides_its_part_of_a_preset(tmp_path: Path) -> None:
    path = classifier(tmp_path / "theirs.onnx")
    request = ImportRequest(preset="timm", interpolation="bilinear", resize_px=(50,), mean=(0.5,))
    found, _ = wrapped(path, request)
    assert found.preprocessing == manifest_pb2.Preprocessing(
        resize_shorter_px=50, interpolation=manifest_pb2.INTERPOLATION_BILINEAR
    )
    assert (found.input_spec.mean, found.input_spec.std) == ((0.5,) * 3, IMAGENET["std"])
    found, _ = wrapped(
        path, ImportRequest(preset="torchvision", resize_mode="letterbox", background="#ffffff")
    )
    assert found.preprocessing == manifest_pb2.Preprocessing(
        resize_mode=manifest_pb2.RESIZE_MODE_LETTERBOX,
        fill="#727272",
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        background="#ffffff",
    )


def stretched(height_px: int, width_px: int, **options: Any) -> manifest_pb2.Preprocessing:
    return manifest_pb2.Preprocessing(
        resize_mode=manifest_pb2.RESIZE_MODE_STRETCH,
        resize_height_px=height_px,
        resize_width_px=width_px,
        interpolation=manifest_pb2.INTERPOLATION_BILINEAR,
        **options,
    )


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (ImportRequest(resize_mode="stretch", resize_px=(40, 40)), stretched(40, 40)),
        (ImportRequest(resize_mode="stretch", resize_px=(32, 45)), stretched(32, 45)),
        (ImportRequest(resize_mode="stretch", crop_ratio=0.875), stretched(32, 41)),
        (
            ImportRequest(resize_mode="stretch", preset="torchvision"),
            stretched(0, 0),
        ),  # its crop is of its mode
        (
            ImportRequest(resize_mode="stretch", resize_px=(40, 40), scaled_decoding=True),
            stretched(40, 40, scaled_decoding=True),
        ),
    ],
)
def test_what_is_stretched_may_be_cropped_then(
    request_: ImportRequest, wanted: manifest_pb2.Preprocessing, tmp_path: Path
) -> None:
    found, _ = wrapped(classifier(tmp_path / "theirs.onnx"), request_)
    assert found.preprocessing == wanted


def test_a_line_of_text_has_paddleocr_s_grey_beside_it(tmp_path: Path) -> None:
    request = ImportRequest(resize_mode="line", interpolation="opencv-bilinear")
    found, _ = wrapped(classifier(tmp_path / "theirs.onnx"), request)
    assert found.preprocessing == manifest_pb2.Preprocessing(
        resize_mode=manifest_pb2.RESIZE_MODE_LINE,
        fill="#808080",
        interpolation=manifest_pb2.INTERPOLATION_OPENCV_BILINEAR,
    )


def test_decoding_at_a_part_of_the_size_is_refused_before_the_network_runs(tmp_path: Path) -> None:
    """A file whose network cannot run is refused for its options first."""
    nodes, tensors = convolutional()
    path = saved(tmp_path / "theirs.onnx", nodes, tensors[:-1], sides=("n", 3, H, W))
    refused(path, r"^ONNX Runtime cannot load it: ")
    refused(
        path,
        r"^scaled decoding needs an interpolation that averages over the source: bilinear, bicubic, ",
        interpolation="opencv-lanczos",
        scaled_decoding=True,
    )


def test_one_channel_has_no_order_to_be_assumed(tmp_path: Path) -> None:
    nodes, tensors = convolutional(channels=1)
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, sides=("n", 1, 8, 8))
    [note] = wrapped(path)[0].notes
    assert note.startswith("warning: assumed")
    assert "RGB" not in note


@pytest.mark.parametrize(("side_px", "torchvision_px", "timm_px"), [(224, 256, 256), (299, 342, 341)])
def test_the_side_before_the_crop_is_rounded_as_the_library_does(
    side_px: int, torchvision_px: int, timm_px: int, tmp_path: Path
) -> None:
    path = classifier(tmp_path / "theirs.onnx", sides=("n", 3, side_px, side_px))
    for preset, wanted_px in (("torchvision", torchvision_px), ("timm", timm_px)):
        found, _ = wrapped(path, ImportRequest(preset=preset))
        assert found.preprocessing.resize_shorter_px == wanted_px


def test_what_nothing_says_is_assumed_aloud(tmp_path: Path) -> None:
    found, _ = wrapped(classifier(tmp_path / "theirs.onnx"))
    [note] = found.notes
    assert note.startswith(
        "warning: assumed, as neither options nor the file say it: values 0..1 without mean"
    )
    assert "order RGB" in note
    assert "shorter side" in note
    assert "--preset torchvision|timm|" in note
    said = ImportRequest(
        mean=(0.5,), channel_order="rgb", resize_mode="stretch", interpolation="opencv-nearest"
    )
    assert wrapped(tmp_path / "theirs.onnx", said)[0].notes == ()


METADATA: list[tuple[dict[str, str], dict[str, Any]]] = [
    (
        {"mean": "[0.485, 0.456, 0.406]", "std": "0.229,0.224,0.225", "crop_pct": "0.9"},
        {"mean": IMAGENET["mean"], "std": IMAGENET["std"], "resize": 40},
    ),
    (
        {"mean": "[123.675, 116.28, 103.53]", "std": "[58.395, 57.12, 57.375]", "interpolation": "bicubic"},
        {"mean": IMAGENET["mean"], "std": IMAGENET["std"], "resize": 36},
    ),
    (
        {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"},
        {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "resize": 36},
    ),
    ({"Image.NominalPixelRange": "Normalized_1_1"}, {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": 36}),
    (
        {"mean": "many", "std": "[0, 0, 0]", "imgsz": "[1e99]", "crop_pct": "[" * 150, "interpolation": "x"},
        {"mean": (0.0,) * 3, "std": (1.0,) * 3, "resize": 36},
    ),
    ({"mean": "[" + "9" * 5000 + "]"}, {"mean": (0.0,) * 3, "std": (1.0,) * 3, "resize": 36}),
]


def with_metadata(path: Path, texts: dict[str, str]) -> Path:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, texts)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("texts", "wanted"), METADATA)
def test_what_the_file_says_of_itself_is_read(
    texts: dict[str, str], wanted: dict[str, Any], tmp_path: Path
) -> None:
    path = with_metadata(classifier(tmp_path / "theirs.onnx"), texts)
    found, _ = wrapped(path)
    np.testing.assert_allclose(found.input_spec.mean, wanted["mean"], atol=1e-12)
    np.testing.assert_allclose(found.input_spec.std, wanted["std"], atol=1e-12)
    assert found.preprocessing.resize_shorter_px == wanted["resize"]
    is_bgr = found.channel_order == manifest_pb2.CHANNEL_ORDER_BGR
    assert is_bgr == (texts.get("Image.BitmapPixelFormat") == "Bgr8")
    is_understood = found.notes[0].startswith("read from the file's metadata: ")
    assert is_understood == ("many" not in texts.values() and len(texts.get("mean", "")) < 100)
    assert all(len(note.splitlines()) == 1 and len(note) < 700 for note in found.notes)
    own, _ = wrapped(path, ImportRequest(preset="keras-tf"))
    np.testing.assert_allclose(own.input_spec.mean, (0.5,) * 3)  # the preset comes first
    assert own.preprocessing.resize_mode == manifest_pb2.RESIZE_MODE_STRETCH


def test_timm_s_squash_is_a_stretch_and_a_crop(tmp_path: Path) -> None:
    path = with_metadata(classifier(tmp_path / "theirs.onnx"), {"crop_mode": "squash", "crop_pct": "0.875"})
    assert wrapped(path)[0].preprocessing == stretched(32, 41)


def test_a_size_in_metadata_is_taken_where_the_graph_leaves_it_free(tmp_path: Path) -> None:
    free = classifier(tmp_path / "free.onnx", sides=("n", 3, "h", "w"))
    found, _ = wrapped(with_metadata(free, {"imgsz": "[20, 30]"}))
    assert (found.input_spec.height, found.input_spec.width) == (20, 30)
    fixed = classifier(tmp_path / "fixed.onnx")
    found, _ = wrapped(with_metadata(fixed, {"imgsz": "[20, 30]"}))
    assert (found.input_spec.height, found.input_spec.width) == (H, W)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"preset": "caffe"}, r"^no preset is called 'caffe'; there are torchvision, timm, keras-caffe, "),
        ({"resize_mode": "crop"}, r"^no resize mode is called 'crop'; there are shorter, "),
        ({"interpolation": "cubic"}, r"^no interpolation is called 'cubic'; there are nearest, "),
        ({"channel_order": "gbr"}, r"^no channel order is called 'gbr'; there are rgb, bgr$"),
        ({"resize_px": (20,)}, r"^a side cannot be resized to 20: 36 \(the input's side\) to 4096 "),
        ({"resize_px": (4097,)}, r"^a side cannot be resized to 4097: "),
        ({"resize_mode": "letterbox", "resize_px": (40,)}, r"^with the resize mode letterbox pictures are "),
        ({"preset": "opencv", "resize_px": (27,)}, r"^a side cannot be resized to 27: 28 "),
        ({"preset": "torchvision", "resize_px": (40, 50)}, r"^height and width to resize to go with "),
        ({"resize_mode": "line", "crop_ratio": 0.9}, r"^with the resize mode line nothing is cropped$"),
        ({"fill": "#000000"}, r"^a fill colour goes with the resize modes letterbox and line only$"),
        ({"scale": (0.0,)}, r"^scale must be above zero, not \(0\.0, 0\.0, 0\.0\)$"),
        ({"scale": (1.0, 1.0)}, r"^scale has 2 numbers for 3 channels$"),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_written(
    request_: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(classifier(tmp_path / "theirs.onnx"), message, **request_)


def test_one_channel_has_no_order(tmp_path: Path) -> None:
    nodes, tensors = convolutional(channels=1)
    path = saved(tmp_path / "theirs.onnx", nodes, tensors, sides=("n", 1, 8, 8))
    refused(path, r"^it takes one channel, which has no order BGR$", channel_order="bgr")


def test_a_preset_says_only_the_geometry_for_a_network_that_takes_pixels(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["n"], ["f"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
    ]
    given = onnx.numpy_helper.from_array(np.eye(K, 3, dtype=np.float32) / 100, "v")
    path = saved(tmp_path / "theirs.onnx", nodes, [given], ("b", 3, 8, 8), kind=TensorProto.UINT8)
    found, _ = wrapped(path, ImportRequest(preset="torchvision"))
    assert found.input_spec.std == (1 / 255,) * 3
    assert found.preprocessing.resize_shorter_px == 9
    refused_path = path.rename(tmp_path / "again.onnx")
    (tmp_path / "model.onnx").unlink()
    refused(refused_path, r"normalises by itself", preset="torchvision", scale=(1.0,))
