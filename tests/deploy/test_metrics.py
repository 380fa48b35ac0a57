"""The metrics that a server exports: in form, and described."""

import re
from pathlib import Path

from tests.deploy.conftest import fetch


def documented(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Read the tables of docs/metrics.md: type and labels by name."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert all(len(row) == 5 and row[3] for row in rows)
    names = [row[0].strip("`") for row in rows]
    assert len(names) == len(set(names))
    return {row[0].strip("`"): (row[1], frozenset(re.findall(r"`(\w+)`", row[2]))) for row in rows}


def test_the_metrics_page_passes_promtool_without_a_complaint(promtool, metrics_page: str) -> None:
    done = promtool("metrics", text=metrics_page)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_metrics_page_of_a_server_with_front_ends_passes_promtool_too(promtool, start_server) -> None:
    running = start_server(frontends=1)
    with running.client() as client:
        client.list_models()
    done = promtool("metrics", text=fetch(running.metrics_url).decode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_does_complain_about_a_badly_named_metric(promtool, metrics_page: str) -> None:
    done = promtool("metrics", text=metrics_page.replace("modelzoo_images_total", "modelzooImages"))
    assert done.returncode != 0
    assert "modelzooImages" in done.stdout + done.stderr


def test_the_document_lists_exactly_the_metrics_of_a_server(root: Path, exported_metrics) -> None:
    exported = {
        name: (family.type, family.labels)
        for name, family in exported_metrics.items()
        if name.startswith(("modelzoo_", "grpc_server_"))
    }
    assert documented((root / "docs/metrics.md").read_text("utf-8")) == exported


def test_the_document_names_no_metric_that_there_is_not(root: Path, exported_metrics) -> None:
    text = (root / "docs/metrics.md").read_text("utf-8")
    named = set(re.findall(r"`((?:modelzoo|grpc_server|process|python)_\w+)[`{]", text))
    assert named - exported_metrics.keys() == set()


def test_the_statuses_of_a_mistake_and_of_a_made_up_name_are_counted(metrics_page: str) -> None:
    assert re.search(r'modelzoo_requests_total\{code="INVALID_ARGUMENT",model="[^_]', metrics_page)
    assert 'modelzoo_requests_total{code="NOT_FOUND",model="_unknown"}' in metrics_page
    assert "no-such-model" not in metrics_page
