"""`modelzoo export`: refusals before a training, and what is published."""

import json
from pathlib import Path

import pytest
import torch
import typer

from cli import export as cli_export
from export import pipeline
from tests.cli.process import Run, refused
from zoo import catalog
from zoo.spec import ModelSpec


@pytest.mark.slow  # every process imports torch
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("lenet6",), "lenet5"),
        (
            ("lenet5", "--weights", "cifar"),
            "no weights 'cifar': neither digits, mnist, imagenet, random, nor",
        ),
        (("lenet5", "--precision", "fp8"), "no precision is called 'fp8'; there are fp32, fp16, int8"),
        (
            ("lenet5", "--weights", "random", "--no-mirror"),
            "--mirror and --no-mirror are for a training, not for random",
        ),
        (("lenet5", "--labels", "a.txt"), "--labels is for a file of weights, not for digits"),
        (("lenet5", "alexnet", "--name", "one"), "one --name cannot be the name of several models"),
    ],
)
def test_export_refuses_before_it_trains(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    assert complaint in refused(run("export", *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_export_publishes_and_says_what_it_measured(run: Run, tmp_path: Path) -> None:
    done = run("export", "simple_cnn", "--repository", tmp_path / "zoo")
    assert done.returncode == 0
    folder = tmp_path / "zoo/simple_cnn-digits/1"
    assert done.stdout.startswith(str(folder))
    assert "of 360 held-out images right" in done.stdout
    assert json.loads((folder / "manifest.json").read_text())["precisions"][0]["accuracy"]["images"] == 360


@pytest.mark.slow
def test_what_cannot_be_exported_leaves_the_rest(run: Run, tmp_path: Path) -> None:
    torch.save(catalog.find("simple_cnn").network().state_dict(), tmp_path / "mine.pt")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    told = ("--weights", tmp_path / "mine.pt", "--labels", tmp_path / "labels.txt")
    done = run("export", "lenet5", "simple_cnn", *told, "--repository", tmp_path / "zoo")
    assert done.returncode == 1
    assert "modelzoo: 1 of 2 not exported: lenet5-mine" in done.stderr
    assert (tmp_path / "zoo/simple_cnn-mine/1/manifest.json").exists()
    assert not (tmp_path / "zoo/lenet5-mine/1").exists()
    assert "simple_cnn-mine: mine.pt: plain state dict, 6 of 6 tensors match simple_cnn" in done.stderr
    assert "it lacks c1.weight" in done.stderr
    assert "the nearest of the catalog is simple_cnn: 6 of its 6 tensors match" in done.stderr


@pytest.mark.slow
def test_the_preprocessing_of_a_file_and_of_options_is_published(run: Run, tmp_path: Path) -> None:
    state = {
        f"module.{name}": value for name, value in catalog.find("simple_cnn").network().state_dict().items()
    }
    torch.save({"state_dict": state, "epoch": 4}, tmp_path / "epoch=4.ckpt")
    (tmp_path / "digits.toml").write_text('mean = 0.25\nstd = [0.5]\nresize = 9\ninterpolation = "bicubic"\n')
    told = ("--weights", "epoch=4.ckpt", "--preprocessing", "digits.toml", "--mean", "0.125")
    done = run("export", "simple_cnn", *told, "--repository", "zoo")
    assert done.returncode == 0, done
    described = json.loads((tmp_path / "zoo/simple_cnn-epoch-4/1/manifest.json").read_text())
    assert (described["input"]["mean"], described["input"]["std"]) == ([0.125], [0.5])
    assert described["preprocessing"]["resize_shorter_px"] == 9
    assert described["preprocessing"]["interpolation"] == "INTERPOLATION_BICUBIC"
    assert (
        described["deviations"][-1] == "preprocessing assumed, not given with the weights: centre of 8 x 8 px"
    )
    found = "state dict under 'state_dict', prefix 'module.' removed, 6 of 6 tensors match simple_cnn"
    assert f"simple_cnn-epoch-4: epoch=4.ckpt: {found}\n" in done.stderr
    whole = "shorter side to 9 px, centre of 8 x 8 px, bicubic, mean 0.125, std 0.5"
    assert f"epoch=4.ckpt: preprocessing: {whole} (assumed: centre of 8 x 8 px)\n" in done.stderr


@pytest.mark.parametrize(
    ("preprocessing", "complaint"),
    [
        ((None, "half", None, None, None, None), "--mean 'half' is not numbers separated by commas"),
        ((None, None, "0.5,0", None, None, None), "std is one number or three, each finite, not 0.5, 0"),
        ((None, None, None, 0, None, None), "resize is 1 to 4096 pixels, not 0"),
        ((None, None, None, None, None, "nearest"), "interpolation is bilinear or bicubic, not 'nearest'"),
        (
            ("tuned", None, None, None, None, None),
            "finetuned, scratch or a file; tuned cannot be read: No such",
        ),
        (("finetuned", None, "1", None, None, None), "mean and std are those of 'finetuned'; give either"),
        (
            (None, None, None, None, 64, None),
            "--crop and --interpolation are for a file of weights, not for digits",
        ),
    ],
)
def test_a_preprocessing_that_cannot_be_had_is_refused_in_one_line(
    preprocessing: cli_export.Preprocessing,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with pytest.raises(typer.Exit) as ended:
        cli_export.run(["lenet5"], None, preprocessing, absent=False, weights="digits", repository=tmp_path)
    assert ended.value.exit_code == 1
    [said] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modelzoo: ")]
    assert complaint in said
    assert list(tmp_path.iterdir()) == []


def test_a_bug_in_one_export_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = []

    def broken(spec: ModelSpec, *_: object) -> None:
        asked.append(spec.name)
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(pipeline, "export", broken)
    with pytest.raises(typer.Exit) as ended:
        cli_export.run(["lenet5", "simple_cnn"], None, absent=False, repository=tmp_path)
    assert ended.value.exit_code == 1
    assert asked == ["lenet5", "simple_cnn"]
    said = capsys.readouterr().err
    assert said.count("ZeroDivisionError: by nothing") == 2
    assert "2 of 2 not exported: lenet5-digits, simple_cnn-digits" in said
    with pytest.raises(ZeroDivisionError):
        cli_export.run(["lenet5"], None, absent=False, repository=tmp_path)
