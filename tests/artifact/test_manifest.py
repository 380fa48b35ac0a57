"""A manifest says what was written, and nothing wrong with it or its files is believed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifact import manifest
from artifact.errors import ArtifactError, DamagedFileError, ManifestError
from modelzoo.v1 import manifest_pb2

Change = Callable[[manifest_pb2.Manifest], object]
NAN, INF = float("nan"), float("inf")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of a written manifest."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(("threads", "said"), [(1, "A, 1 thread"), (2, "A, 2 threads")])
def test_a_machine_is_named_with_its_threads(threads: int, said: str) -> None:
    assert manifest.machine_text(manifest_pb2.Machine(processor="A", threads=threads)) == said


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [  # by scipy.stats.binomtest(correct, images).proportion_ci(method="wilson") of SciPy 1.17
        (81, 263, 0.2552885, 0.3662096),
        (15, 148, 0.0623864, 0.1604872),
        (1, 29, 0.0061132, 0.1717552),
        (0, 20, 0.0, 0.1611252),
        (20, 20, 0.8388748, 1.0),
        (1, 1, 0.2065493, 1.0),
    ],
)
def test_the_interval_of_a_share_is_wilsons(correct: int, images: int, low: float, high: float) -> None:
    assert manifest.wilson_interval(correct, images) == pytest.approx((low, high), abs=5e-8)


def test_a_manifest_comes_back_as_it_was_written(
    tmp_path: Path, fill_folder: Callable[[Path], manifest_pb2.Manifest]
) -> None:
    folder = tmp_path / "net-pets" / "1"
    written = fill_folder(folder)
    manifest.write(written, folder)
    assert manifest.read(folder) == written
    assert manifest.read(folder).tools["torch"] == "2"


def test_the_file_is_json_that_people_read_too(folder: Path) -> None:
    text = (folder / "manifest.json").read_text("utf-8")
    content = json.loads(text)
    assert text.endswith("}\n")
    assert content["label_count"] == 3
    assert content["preprocessing"] == {
        "resize_shorter_px": 7,
        "interpolation": "INTERPOLATION_BICUBIC",
        "scaled_decoding": False,
        "resize_mode": "RESIZE_MODE_SHORTER",
        "fill": "",
        "background": "",
        "resize_height_px": 0,
        "resize_width_px": 0,
    }
    assert content["parameters"] == 61_706  # a number; protobuf would write 64 bits as text
    assert content["precisions"][0]["file"]["size_bytes"] == 3_000_000

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*(keys(child) for child in value.values()))
        return set().union(*(keys(child) for child in value)) if isinstance(value, list) else set()

    assert {key for key in keys(content) if not key.replace("_", "").islower() and key != "fp32"} == set()


def test_files_are_described_by_their_hash_and_size(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    described = manifest.describe_file(folder / "model.onnx")
    assert described.name == "model.onnx"
    assert described.sha256 == hashlib.sha256(content).hexdigest()
    assert described.size_bytes == len(content) == 3_000_000


def remove_std(m: manifest_pb2.Manifest) -> None:
    del m.input.std[2]


def set_std(value: float) -> Change:
    return lambda m: m.input.std.__setitem__(1, value)


def set_mean(value: float) -> Change:
    return lambda m: m.input.mean.__setitem__(1, value)


def set_tolerance(value: float) -> Change:
    return lambda m: setattr(m.precisions[0].tolerances[0], "max_abs_difference", value)


def set_accuracy(correct: int, images: int) -> Change:
    return lambda m: m.precisions[0].accuracy.CopyFrom(manifest_pb2.Accuracy(images=images, correct=correct))


def set_latency(batch_size: int, median_s: float) -> Change:
    return lambda m: (
        m.precisions[0].latencies[0].CopyFrom(manifest_pb2.Latency(batch_size=batch_size, median_s=median_s))
    )


def add_precision(name: str) -> Change:
    return lambda m: m.precisions.append(manifest_pb2.Precision(name=name, file=m.labels))


def letterbox(m: manifest_pb2.Manifest, fill: str) -> None:
    m.preprocessing.resize_mode = manifest_pb2.RESIZE_MODE_LETTERBOX
    m.preprocessing.resize_shorter_px = 0
    m.preprocessing.fill = fill


def line_without_fill(m: manifest_pb2.Manifest) -> None:
    m.preprocessing.resize_mode = manifest_pb2.RESIZE_MODE_LINE
    m.preprocessing.resize_shorter_px = 0


def stretch(m: manifest_pb2.Manifest, height_px: int) -> None:
    m.preprocessing.resize_mode = manifest_pb2.RESIZE_MODE_STRETCH
    m.preprocessing.resize_shorter_px = 0
    m.preprocessing.resize_height_px = height_px


def scaled_nearest(m: manifest_pb2.Manifest) -> None:
    m.preprocessing.interpolation = manifest_pb2.INTERPOLATION_NEAREST
    m.preprocessing.scaled_decoding = True


def grey_bgr(m: manifest_pb2.Manifest) -> None:
    m.input.channels = 1
    del m.input.mean[1:], m.input.std[1:]
    m.input.channel_order = manifest_pb2.CHANNEL_ORDER_BGR


PROBLEMS: list[tuple[Change, str]] = [
    (lambda m: m.ClearField("name"), "name '' is not a model's name"),
    (lambda m: setattr(m, "name", "../net-pets"), "name '../net-pets' is not a model's name"),
    (lambda m: setattr(m, "name", "Net"), "name 'Net' is not a model's name"),
    (lambda m: setattr(m, "name", ".net"), "name '.net' is not a model's name"),
    (lambda m: setattr(m, "name", "a" * 129), "is not a model's name"),
    (lambda m: setattr(m, "name", "net\n"), "is not a model's name"),
    (lambda m: m.ClearField("version"), "version is missing or below 1"),
    (lambda m: setattr(m, "version", -1), "version is missing or below 1"),
    (lambda m: m.ClearField("architecture"), "architecture is missing"),
    (lambda m: m.ClearField("parameters"), "parameters is missing or below 1"),
    (lambda m: setattr(m, "label_count", 1), "label_count is missing or below 2"),
    (lambda m: setattr(m.input, "height", 0), "input.height is not in 1..4096"),
    (lambda m: setattr(m.input, "height", 4097), "input.height is not in 1..4096"),
    (lambda m: setattr(m.input, "width", -5), "input.width is not in 1..4096"),
    (lambda m: m.ClearField("input"), "input.height is not in 1..4096"),
    (lambda m: setattr(m.input, "channels", 4), "input.channels is neither 1 nor 3"),
    (remove_std, "input.mean and input.std need one value per channel"),
    (lambda m: m.input.ClearField("mean"), "input.mean and input.std need one value per channel"),
    *((set_mean(value), "input.mean holds a value that is no finite number") for value in (NAN, INF, -INF)),
    *((set_std(value), "input.std holds a value that is not above 0") for value in (NAN, INF, -0.5, 0.0)),
    (
        lambda m: setattr(m.preprocessing, "resize_shorter_px", 5),
        "preprocessing.resize_shorter_px is smaller than the input, or missing",
    ),
    (
        lambda m: setattr(m.preprocessing, "resize_shorter_px", 4097),
        "preprocessing.resize_shorter_px is",
    ),
    (lambda m: m.preprocessing.ClearField("interpolation"), "preprocessing.interpolation is missing"),
    (lambda m: setattr(m.preprocessing, "interpolation", 12), "preprocessing.interpolation is missing"),
    (lambda m: setattr(m.preprocessing, "resize_mode", 5), "preprocessing.resize_mode 5 is unknown"),
    (
        lambda m: setattr(m.preprocessing, "resize_mode", manifest_pb2.RESIZE_MODE_STRETCH),
        "preprocessing.resize_shorter_px says nothing where both sides are fitted",
    ),
    (lambda m: letterbox(m, ""), "preprocessing.fill is missing"),
    (lambda m: letterbox(m, "#7272720"), "preprocessing.fill '#7272720' is no colour #rrggbb"),
    (lambda m: letterbox(m, "300,0,0"), "preprocessing.fill '300,0,0' is no colour #rrggbb"),
    (lambda m: setattr(m.preprocessing, "fill", "#727272"), "preprocessing.fill needs a letterbox"),
    (lambda m: setattr(m.preprocessing, "background", "white"), "background 'white' is no colour #rrggbb"),
    (line_without_fill, "preprocessing.fill is missing"),
    (
        lambda m: setattr(m.preprocessing, "resize_width_px", 9),
        "preprocessing.resize_width_px needs pictures that are stretched",
    ),
    (lambda m: stretch(m, 4_097), "preprocessing.resize_height_px is smaller than the input, or too large"),
    (lambda m: stretch(m, 1), "preprocessing.resize_height_px is smaller than the input, or too large"),
    (scaled_nearest, "preprocessing.scaled_decoding needs an interpolation that averages"),
    (lambda m: setattr(m.input, "channel_order", 2), "input.channel_order 2 is unknown"),
    (grey_bgr, "input.channel_order is BGR, but input.channels is not 3"),
    (lambda m: m.ClearField("precisions"), "precisions does not start with fp32"),
    (lambda m: setattr(m.precisions[0], "name", "fp16"), "precisions does not start with fp32"),
    (add_precision("fp8"), "precision 'fp8' is unknown"),
    (add_precision("fp32"), "precision 'fp32' is there twice"),
    (set_tolerance(0), "tolerance of 'fp32' with 'CPUExecutionProvider' is 0, not above 0 and at most 1"),
    (set_tolerance(-1e-5), "is -1e-05, not above 0 and at most 1"),
    (set_tolerance(1.001), "is 1.001, not above 0 and at most 1"),
    (set_tolerance(INF), "is inf, not above 0 and at most 1"),
    (set_tolerance(NAN), "is nan, not above 0 and at most 1"),
    (lambda m: m.ClearField("labels"), "'' is not a plain file name"),
    (lambda m: setattr(m.labels, "name", "../labels.txt"), "'../labels.txt' is not a plain file name"),
    (lambda m: setattr(m.golden, "name", "/etc/passwd"), "'/etc/passwd' is not a plain file name"),
    (lambda m: setattr(m.golden, "name", "card/golden.npz"), "'card/golden.npz' is not a plain file name"),
    (lambda m: setattr(m.golden, "name", ".."), "'..' is not a plain file name"),
    (lambda m: setattr(m.precisions[0].file, "name", "..\\model.onnx"), "is not a plain file name"),
    (lambda m: setattr(m.precisions[0].file, "name", "model.onnx\0"), "is not a plain file name"),
    (lambda m: setattr(m.golden, "sha256", "f" * 63), "the sha256 of 'golden.npz' is not 64 hexadecimal"),
    (lambda m: setattr(m.golden, "sha256", "f" * 65), "the sha256 of 'golden.npz' is not 64 hexadecimal"),
    (lambda m: setattr(m.labels, "sha256", "F" * 64), "the sha256 of 'labels.txt' is not 64 hexadecimal"),
    (lambda m: m.precisions[0].file.ClearField("sha256"), "the sha256 of 'model.onnx' is not 64"),
    (set_accuracy(11, 10), "the accuracy of 'fp32' counts more right answers than images"),
    (set_accuracy(-1, 10), "the accuracy of 'fp32' counts more right answers than images"),
    (set_accuracy(0, 0), "the accuracy of 'fp32' counts no image"),
    (set_latency(0, 0.001), "a latency of 'fp32' is no time of a batch"),
    (set_latency(8, 0), "a latency of 'fp32' is no time of a batch"),
    (lambda m: m.ClearField("reference"), "reference is missing"),
    (lambda m: m.weights.ClearField("origin"), "weights.origin is missing"),
    (lambda m: setattr(m, "macs", -1), "macs is no count"),
    (lambda m: setattr(m, "macs", NAN), "macs is no count"),
]


@pytest.mark.parametrize(("change", "problem"), PROBLEMS)
def test_a_wrong_value_is_named_and_neither_written_nor_read(
    folder: Path, change: Change, problem: str
) -> None:
    described = manifest.read(folder)
    before = (folder / "manifest.json").read_bytes()
    change(described)
    with pytest.raises(ManifestError) as caught:
        manifest.write(described, folder)
    assert str(caught.value).startswith("manifest.json: ")
    assert problem in str(caught.value)
    assert (folder / "manifest.json").read_bytes() == before


def test_a_wrong_value_is_refused_when_it_is_read(folder: Path) -> None:
    rewrite(folder, lambda content: content["golden"].update(name="../../golden.npz"))
    with pytest.raises(ManifestError, match=r"'\.\./\.\./golden\.npz' is not a plain file name"):
        manifest.read(folder)


@pytest.mark.parametrize("tolerance", [5e-324, 1.0])
def test_a_tolerance_may_be_anything_above_0_and_at_most_1(folder: Path, tolerance: float) -> None:
    described = manifest.read(folder)
    set_tolerance(tolerance)(described)
    manifest.write(described, folder)
    assert manifest.read(folder).precisions[0].tolerances[0].max_abs_difference == tolerance


def test_a_tolerance_that_would_let_everything_pass_is_refused_when_it_is_read(folder: Path) -> None:
    def loosen(content: dict[str, Any]) -> None:
        content["precisions"][0]["tolerances"][0]["max_abs_difference"] = "Infinity"  # protobuf's JSON

    rewrite(folder, loosen)
    with pytest.raises(ManifestError, match=r"is inf, not above 0 and at most 1$"):
        manifest.read(folder)


def test_accuracy_may_be_missing_where_it_was_not_measured(folder: Path) -> None:
    rewrite(folder, lambda content: content["precisions"][0].pop("accuracy"))
    assert not manifest.read(folder).precisions[0].HasField("accuracy")


def test_an_unknown_field_is_refused_in_one_line(folder: Path) -> None:
    rewrite(folder, lambda content: content.update(colour="green"))
    with pytest.raises(ManifestError, match='no field named "colour"') as caught:
        manifest.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"[" * 100_000,
        b'{"name": 3}',
        b'{"version": 1.5}',
        b'{"parameters": 4294967296}',
        b'{"name": "a", "name": "b"}',
        b"\xff\xfe{}",
    ],
    ids=["empty", "open", "list", "number", "null", "deep", "type", "float", "range", "twice", "utf-16"],
)
def test_what_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"^manifest\.json") as caught:
        manifest.read(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"^manifest\.json cannot be read: No such file or directory$"):
        manifest.read(folder)


@pytest.mark.parametrize("place", ["net-pets/2", "pets/1", "net-pets/01"])
def test_a_manifest_in_another_models_folder_is_refused(folder: Path, place: str) -> None:
    elsewhere = folder.parent.parent / place
    elsewhere.parent.mkdir(exist_ok=True)
    folder.rename(elsewhere)
    with pytest.raises(ManifestError, match=rf"describes net-pets/1, but lies in {place}$"):
        manifest.read(elsewhere)


def test_untouched_files_pass(folder: Path) -> None:
    described = manifest.read(folder)
    manifest.check_files(described, folder)
    assert manifest.read_labels(described, folder) == ("cat", "dog", "çedilla")


@pytest.mark.parametrize("name", ["labels.txt", "model.onnx", "golden.npz"])
def test_one_changed_byte_of_any_file_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"^{name} is not the file that was published: sha256 "):
        manifest.check_files(manifest.read(folder), folder)


@pytest.mark.parametrize("name", ["labels.txt", "model.onnx", "golden.npz"])
def test_a_missing_file_is_found(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DamagedFileError, match=rf"^{name} cannot be read: No such file or directory$"):
        manifest.check_files(manifest.read(folder), folder)


def test_a_folder_in_the_place_of_a_file_is_found(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(DamagedFileError, match=r"^model\.onnx cannot be read: not a regular file$"):
        manifest.check_files(manifest.read(folder), folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"cat\ndog\n", "holds 2 labels, the manifest says 3"),
        (b"cat\ndog\nbird\nfish\n", "holds 4 labels, the manifest says 3"),
        (b"cat\ndog\nbird\n\n", "holds 4 labels, the manifest says 3"),
        (b"", "holds 0 labels, the manifest says 3"),
        (b"cat\ndog\n\xe7edilla\n", "cannot be read: 'utf-8' codec can't decode"),
    ],
)
def test_another_number_of_labels_is_refused(folder: Path, content: bytes, problem: str) -> None:
    (folder / "labels.txt").write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"^labels\.txt {problem}"):
        manifest.read_labels(manifest.read(folder), folder)


def test_the_last_line_of_the_labels_may_lack_its_end(folder: Path) -> None:
    (folder / "labels.txt").write_text("cat\ndog\nbird", "utf-8")
    assert manifest.read_labels(manifest.read(folder), folder) == ("cat", "dog", "bird")


def test_missing_labels_are_refused_as_every_damaged_artifact_is(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    with pytest.raises(ArtifactError, match=r"^labels\.txt cannot be read: No such file or directory$"):
        manifest.read_labels(manifest.read(folder), folder)
