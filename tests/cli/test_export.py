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
            "--mirror and --no-mirror are of trainings; random is loaded",
        ),
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
