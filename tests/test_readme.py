"""What the documents promise is there, and does what they say."""

import ast
import contextlib
import inspect
import io
import itertools
import re
from pathlib import Path

import pytest
import typer.main

from artifact import layout
from cli.main import app
from server.config import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_example_of_the_readme_runs(server, repository: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = repository / "lenet5-digits" / "1" / layout.CARD / layout.EXAMPLE
    code = code.replace("models/lenet5-digits/1/card/example.png", str(example))
    code = code.replace("127.0.0.1:8001", server.address)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"\d 0\.\d{4}\n", output.getvalue())


def test_the_readme_lists_exactly_the_commands_there_are() -> None:
    listed = re.findall(r"^\| `modelzoo (\w+)", README, re.MULTILINE)
    assert listed == list(typer.main.get_command(app).commands)


def test_the_settings_page_lists_exactly_the_settings_there_are() -> None:
    text = (ROOT / "docs/settings.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    cores = "the cores of this machine, or of the container"
    derived = {"decoder_threads": cores, "lanes": "2, or 1 on a single core", "intra_op_threads": cores}
    derived["max_bytes_per_connection"] = "half of `max_bytes_in_flight`"
    fields = Settings.model_fields
    assert {name for name, field in fields.items() if field.default_factory} == derived.keys()
    said = docstrings_of_fields(Settings)
    assert rows == [(name, derived.get(name, f"`{fields[name].default}`"), said[name]) for name in fields]


def docstrings_of_fields(cls: type) -> dict[str, str]:
    """The texts under the fields of a class, by field."""
    [body] = [node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef)]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text("utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target
