"""The table of the zoo says what the manifests say, and stays between its markers."""

import sys
from pathlib import Path

import pytest

from bench import zoo

README = Path(__file__).parent.parent.parent / "README.md"


def test_every_model_has_a_row_with_its_figures(exported, repository: Path) -> None:
    lines = list(zoo.lines(repository))
    rows = {cells[1]: cells for cells in ([c.strip() for c in line.split("|")] for line in lines[2:5])}
    assert rows.keys() == {f"`{name}`" for name in exported}
    cells = rows["`lenet5-digits`"]
    described = exported["lenet5-digits"].manifest
    assert cells[2:5] == ["1998", "61,706", f"{described.macs / 1e6:,.1f}"]
    accuracy = described.precisions[0].accuracy
    assert cells[6].startswith(f"{100 * accuracy.correct / 360:.2f} / ")
    assert all(len(cell.split(" / ")) == 3 for cell in cells[5:9])
    assert described.machine.processor in lines[-1]


def test_speeds_may_be_measured_anew_and_everything_else_stays(exported, repository: Path) -> None:
    stated, measured = (
        {cells[1]: cells for cells in ([c.strip() for c in line.split("|")] for line in lines[2:5])}
        for lines in (list(zoo.lines(repository)), list(zoo.lines(repository, 0.01)))
    )
    for name in (f"`{name}`" for name in exported):
        assert measured[name][:7] == stated[name][:7]
        assert measured[name][7:9] != stated[name][7:9]  # three figures each, of another second
        speeds = [float(speed.replace(",", "")) for speed in measured[name][7].split(" / ")]
        assert len(speeds) == 3
        assert min(speeds) > 0


def test_the_table_replaces_what_is_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{zoo.BEGIN}\nold\n{zoo.END}\nafter\n")
    zoo.replace(page, "new")
    assert page.read_text() == f"before\n{zoo.BEGIN}\nnew\n{zoo.END}\nafter\n"


@pytest.mark.parametrize("content", ["nothing", zoo.BEGIN, zoo.END, f"{zoo.END}{zoo.BEGIN}"])
def test_a_page_without_markers_is_refused_and_left_as_it_was(tmp_path: Path, content: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(content)
    with pytest.raises(ValueError, match="lacks"):
        zoo.replace(page, "new")
    assert page.read_text() == content


def test_the_readme_has_the_markers() -> None:
    text = README.read_text("utf-8")
    assert text.index(zoo.BEGIN) < text.index(zoo.END)


def test_a_damaged_repository_is_one_line(
    scratch_repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (scratch_repository / "lenet5-digits/1/manifest.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["zoo", "--repository", str(scratch_repository)])
    assert zoo.main() == 1
    assert capsys.readouterr().err.startswith("manifest.json is not a manifest")
