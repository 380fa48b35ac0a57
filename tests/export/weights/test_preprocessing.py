"""What weights from a file were trained for is given, known or said to be assumed; never silently guessed."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from artifact import layout, pictures
from export import pipeline, sources
from export.graph import verification
from export.weights import loading, preprocessing
from export.weights.preprocessing import Preprocessing, PreprocessingError
from modelzoo.v1 import manifest_pb2
from zoo import catalog
from zoo.spec import InputSpec
from zoo.weights import imagenet

GOOGLENET = catalog.find("googlenet")
RESNET = catalog.find("resnet18")
LENET = catalog.find("lenet5")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE_PX, SHORTER_PX = 64, 72


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """scikit-learn's two photographs, whole and in parts, as PNG files."""
    folder, paths = tmp_path_factory.mktemp("photographs"), []
    for number, pixels in enumerate(load_sample_images().images):
        for name, part in (("whole", pixels), ("part", pixels[100:300, 50:450]), ("top", pixels[:120])):
            paths.append(folder / f"{name}{number}.png")
            Image.fromarray(part).save(paths[-1])
    return paths


def transformed(paths: list[Path]) -> torch.Tensor:
    """Preprocess as a script that fine-tunes does: torchvision's transforms with ImageNet's mean and std."""
    transforms = v2.Compose(
        [
            v2.Resize(SHORTER_PX),
            v2.CenterCrop(SIDE_PX),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return torch.stack([transforms(Image.open(path)) for path in paths])  # [N, 3, SIDE_PX, SIDE_PX]


@pytest.fixture(scope="module")
def reference(photographs: list[Path]) -> nn.Module:
    """torchvision's GoogLeNet as fine-tuning leaves it: it transforms its input, and pictures differ."""
    torch.manual_seed(0)
    network = models.googlenet(
        weights=None, num_classes=5, aux_logits=False, transform_input=True, init_weights=False
    )
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the statistics of all that is seen
    with torch.no_grad():
        network(transformed(photographs))
        network.fc.weight *= 1.2
    return network.eval()


@pytest.fixture
def checkpoint(reference: nn.Module, tmp_path: Path) -> Path:
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "flowers.pth.tar")
    return tmp_path / "flowers.pth.tar"


def sized(start: Literal["finetuned", "scratch"]) -> Preprocessing:
    return Preprocessing(start, crop=SIDE_PX, resize=SHORTER_PX)


def pixels(paths: list[Path], described: manifest_pb2.Manifest) -> verification.Images:
    return np.stack(
        [pictures.decode(path.read_bytes(), described.input, described.preprocessing) for path in paths]
    )


def test_a_fine_tuned_googlenet_answers_as_in_its_training_script_and_as_from_scratch_not(
    reference: nn.Module, checkpoint: Path, photographs: list[Path]
) -> None:
    with torch.no_grad():
        expected = reference(transformed(photographs)).softmax(dim=1).numpy()
    assert expected.std(axis=0).max() > 0.05  # the pictures differ in their answers

    def difference(start: Literal["finetuned", "scratch"]) -> float:
        loaded = loading.from_file(checkpoint, GOOGLENET, given=sized(start))
        _, candidate = sources.loaded(GOOGLENET, "flowers", loaded, None, pipeline.Silent())
        return float(np.abs(candidate.answer(pixels(photographs, candidate.description)) - expected).max())

    assert difference("finetuned") < 1e-5
    assert difference("scratch") > 0.05


@pytest.mark.slow  # the export of 60 layers
def test_a_fine_tuned_googlenet_is_published_with_the_preprocessing_that_was_chosen(
    reference: nn.Module, checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    request = pipeline.Request(tmp_path / "models", str(checkpoint), preprocessing=sized("finetuned"))
    done = pipeline.export(GOOGLENET, request)
    described = done.manifest
    assert (described.name, described.preprocessing.resize_shorter_px) == ("googlenet-flowers", SHORTER_PX)
    assert list(described.input.mean) == list(described.input.std) == [0.5, 0.5, 0.5]
    assert described.deviations[-1] == "preprocessing assumed, not given with the weights: bilinear"
    with torch.no_grad():
        expected = reference(transformed(photographs)).softmax(dim=1).numpy()
    answers = verification.open_on_cpu(done.folder / layout.MODEL_FILES["fp32"])(
        pixels(photographs, described)
    )
    assert np.abs(answers - expected).max() < 1e-5


def test_googlenet_and_inception_want_a_choice_and_say_why(checkpoint: Path) -> None:
    with pytest.raises(PreprocessingError) as caught:
        loading.from_file(checkpoint, GOOGLENET)
    assert str(caught.value) == (
        "flowers.pth.tar: --preprocessing finetuned, scratch or a file has to be chosen, or mean and std: "
        "fine-tuned from torchvision's weights, which transform their input, googlenet wants 0.5 for both, "
        "trained from scratch the usual 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225"
    )
    for name in ("googlenet", "inception_v3"):
        spec = catalog.find(name)
        for given in (Preprocessing(), Preprocessing(mean=(0.5,)), Preprocessing(resize=342, crop=299)):
            with pytest.raises(
                PreprocessingError, match=rf"has to be chosen, .* {name} wants 0\.5 for both, "
            ):
                preprocessing.settle(spec, spec.input, given, None, "a.pt")
        given = Preprocessing(mean=(0.1,), std=(0.2, 0.3, 0.4))
        pixels = preprocessing.settle(spec, spec.input, given, None, "a.pt").input_spec
        assert (pixels.mean, pixels.std) == ((0.1, 0.1, 0.1), (0.2, 0.3, 0.4))


def settled(given: Preprocessing, own: InputSpec = RESNET.input) -> preprocessing.Settled:
    return preprocessing.settle(RESNET, given.sized(own), given, None, "mine.pt")


def test_what_is_assumed_is_said_and_what_is_given_is_not() -> None:
    nothing = settled(Preprocessing())
    whole = (
        "shorter side to 224 px, centre of 224 x 224 px, bilinear, mean 0.485, 0.456, 0.406, "
        "std 0.229, 0.224, 0.225"
    )
    assert nothing.assumed == whole
    assert nothing.summary == f"preprocessing: {whole} (assumed: {whole})"
    some = settled(Preprocessing(start="finetuned", resize=256, crop=192))
    assert some.assumed == "bilinear"
    assert (some.input_spec, some.resize_shorter_px) == (RESNET.input.resized(192, 192), 256)
    everything = settled(Preprocessing(None, (0.0,), (1.0,), 256, 224, "bicubic"))
    assert everything.assumed == ""
    assert everything.summary == (
        "preprocessing: shorter side to 256 px, centre of 224 x 224 px, bicubic, mean 0, 0, 0, std 1, 1, 1 "
        "(as given)"
    )
    assert everything.interpolation == "bicubic"


def test_an_assumption_is_in_the_manifest_and_among_the_notes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(LENET.network().state_dict(), tmp_path / "mine.PTH")
    notes: list[str] = []
    loaded = loading.from_file(tmp_path / "mine.PTH", LENET, note=notes.append)
    _, candidate = sources.loaded(LENET, "mine", loaded, None, pipeline.Silent())
    whole = "shorter side to 32 px, centre of 32 x 32 px, bilinear, mean 0.0784314, std 0.784314"
    assert candidate.description.deviations[-1] == (
        f"preprocessing assumed, not given with the weights: {whole}"
    )
    assert notes == [
        "mine.PTH: plain state dict, 10 of 10 tensors match lenet5",
        f"mine.PTH: preprocessing: {whole} (assumed: {whole})",
    ]


def test_a_published_file_that_was_saved_anew_is_recognised_by_its_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = LENET.network().state_dict()
    torch.save(state, tmp_path / "official.pth")
    digest = hashlib.sha256((tmp_path / "official.pth").read_bytes()).hexdigest()
    published = imagenet("resnet18")
    assert published is not None
    published = dataclasses.replace(
        published,
        url=f"https://localhost/lenet5-{digest[:8]}.pth",
        labels=tuple("abcdefghij"),
        input=LENET.input,
        resize_shorter_px=36,
    )
    kept = published.path(tmp_path / "hub")
    kept.parent.mkdir()
    (tmp_path / "official.pth").rename(kept)
    anew = tmp_path / "anew.pth"
    torch.save({"model": {name: value.clone() for name, value in state.items()}, "epoch": 0}, anew)

    notes: list[str] = []

    def load(folder: str) -> loading.Loaded:
        notes.clear()
        return loading.from_file(
            anew, LENET, published=published, folder=tmp_path / folder, note=notes.append
        )

    known = load("hub")
    assert (known.resize_shorter_px, known.accuracy_ratio, known.labels[0]) == (36, 0.69758, "a")
    assert known.assumed == ()
    assert len(notes) == 2
    assert notes[1].endswith(" (torchvision's own)")
    assert load("elsewhere").resize_shorter_px == 32  # there is nothing to compare with
    assert notes[2] == (
        "anew.pth: warning: not known as torchvision ResNet18_Weights.IMAGENET1K_V1; if it is, saved anew, "
        "give --mean 0.0784314 --std 0.784314 --resize 36 --crop 32 and its --labels, or keep "
        f"{published.file_name} in the folder of torch.hub to compare with"
    )
    content = kept.read_bytes()
    kept.write_bytes(content[:-1])
    assert load("hub").resize_shorter_px == 32
    kept.write_bytes(content)
    assert load("hub").resize_shorter_px == 36
    state["f6.bias"][0] += 1
    torch.save(state, anew)
    assert load("hub").resize_shorter_px == 32


JSON = {"mean": [0.5, 0.4, 0.3], "std": 0.25, "resize": 256, "crop": 224, "interpolation": "bicubic"}


def test_a_preprocessing_is_read_from_json_and_toml_and_options_come_before_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(JSON))
    (tmp_path / "a.toml").write_text(
        "\n".join(f"{name} = {json.dumps(value)}" for name, value in JSON.items())
    )
    for name in ("a.json", "a.toml"):
        assert preprocessing.read(tmp_path / name) == Preprocessing(
            None, (0.5, 0.4, 0.3), (0.25,), 256, 224, "bicubic"
        )
        chosen = preprocessing.chosen(str(tmp_path / name), resize=300, mean=None)
        assert (chosen.resize, chosen.mean) == (300, (0.5, 0.4, 0.3))
    assert preprocessing.chosen("scratch", crop=64) == Preprocessing("scratch", crop=64)
    assert preprocessing.chosen() == Preprocessing()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"^a\.txt is not JSON: "),
        ("[" * 100_000, r"^preprocessing is .* cannot be read: 100000 bytes, at most 65536 allowed$"),
        ('{"mean": ' + "[" * 30_000, r"^a\.txt is not JSON: "),
        ("mean 0.5", r"^a\.txt is not TOML: "),
        ("size = 3", r"^a\.txt has size; its keys are mean, std, resize, crop, interpolation$"),
        ('{"resize": "256"}', r"^a\.txt: resize is a whole number of pixels$"),
        ('{"crop": true}', r"^a\.txt: crop is a whole number of pixels$"),
        ('{"resize": 0}', r"^resize is 1 to 4096 pixels, not 0$"),
        ('{"crop": 5000}', r"^crop is 1 to 4096 pixels, not 5000$"),
        ('{"mean": "0.5"}', r"^a\.txt: mean is a number or a list of numbers$"),
        ('{"mean": [0.5, true, 0.5]}', r"^a\.txt: mean is a number or a list of numbers$"),
        ('{"mean": 1' + "0" * 400 + "}", r"^a\.txt: mean is a number or a list of numbers$"),
        ('{"mean": [1, 2]}', r"^mean is one number or three, each finite, not 1, 2$"),
        ('{"mean": NaN}', r"^mean is one number or three, each finite, not nan$"),
        (
            "mean = [123.675, 116.28, 103.53]",
            r"^mean is on the scale 0\.\.1, not 123\.675, 116\.28, 103\.53: div",
        ),
        ("std = [1, 0, 1]", r"^std is above zero, not 1, 0, 1$"),
        ('interpolation = "nearest"', r"^interpolation is bilinear or bicubic, not 'nearest'$"),
        ("interpolation = [1]", r"^interpolation is bilinear or bicubic, not \[1\]$"),
    ],
)
def test_a_file_that_is_no_preprocessing_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(PreprocessingError, match=message) as caught:
        preprocessing.chosen(str(tmp_path / "a.txt"))
    assert "\n" not in str(caught.value)


def test_what_contradicts_itself_or_the_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PreprocessingError, match=r"finetuned, scratch or a file; .*no\.json cannot be read: No such"
    ):
        preprocessing.chosen(str(tmp_path / "no.json"))
    with pytest.raises(
        PreprocessingError, match=r"^mean and std are those of 'scratch'; give either it or them$"
    ):
        Preprocessing("scratch", mean=(0.5,))
    with pytest.raises(
        PreprocessingError, match=r"^resize to 128 px leaves too little for the crop of 224 px$"
    ):
        settled(Preprocessing(resize=128))
    with pytest.raises(PreprocessingError, match=r"^resnet18: mean has 3 numbers for 1 channels$"):
        settled(Preprocessing(mean=MEAN), RESNET.input_for(1, 224))
    with pytest.raises(
        PreprocessingError, match=r"^torchvision has no weights of lenet5 that could be fine-tuned$"
    ):
        preprocessing.settle(LENET, LENET.input, Preprocessing("finetuned"), None, "a.pt")


@pytest.mark.parametrize("weights", ["digits", "imagenet", "random", "."])
def test_a_preprocessing_for_what_is_no_file_is_refused_before_anything_is_done(
    weights: str, tmp_path: Path
) -> None:
    request = pipeline.Request(tmp_path / "models", weights, name="a", preprocessing=Preprocessing(crop=32))
    what = "a folder of pictures" if weights == "." else weights
    with pytest.raises(
        pipeline.InapplicableError, match=rf" and --interpolation are for a file of weights, not for {what}$"
    ):
        pipeline.export(LENET, request)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "option", "message"),
    [
        ("imagenet", {"labels": Path("a.txt")}, "--labels is for a file of weights, not for imagenet"),
        (".", {"labels": Path("a.txt")}, "--labels is for a file of weights, not for a folder of pictures"),
        ("mnist", {"strict": True}, "--strict is for a folder of pictures, not for mnist"),
        ("a.pt", {"strict": True}, "--strict is for a folder of pictures, not for a file of weights"),
        ("a.pt", {"mirror": False}, "--mirror and --no-mirror are for a training, not for a file of weights"),
        (
            "digits",
            {"calibration": Path()},
            "--calibration is for weights that are loaded, not for digits",
        ),
    ],
)
def test_an_option_that_means_nothing_for_the_weights_is_refused(
    weights: str, option: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").touch()
    with pytest.raises(pipeline.InapplicableError) as caught:
        pipeline.export(LENET, pipeline.Request(tmp_path / "models", weights, name="a", **option))
    assert str(caught.value) == message
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
