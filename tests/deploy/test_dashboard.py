"""The dashboard, held against the rules of dashboards and against what a server exports."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# A level, and the difference of two counters is one: calls that began and have not ended.
NOT_A_RATE = {"RPCs in progress"}
# Metrics of the server that no panel needs to show, each with its reason.
NOT_SHOWN: dict[str, str] = {}


def expressions(panels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """List every query with its panel's title."""
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def family_of(metric: str, exported: dict[str, Any]) -> str:
    """Find the metric that a series belongs to."""
    for part in HISTOGRAM_PARTS:
        whole = metric.removesuffix(part)
        if whole != metric and whole in exported and exported[whole].type == "histogram":
            return whole
    return metric


def test_the_committed_dashboard_is_what_its_program_prints(root: Path) -> None:
    program = root / "deploy/grafana/dashboard.py"
    printed = subprocess.run([sys.executable, "-B", program], capture_output=True, text=True, check=True)
    committed = root / "deploy/grafana/dashboards/modelzoo.json"
    assert committed.read_text("utf-8") == printed.stdout


def test_the_dashboard_cannot_be_edited_and_keeps_its_address(dashboard: dict[str, Any]) -> None:
    assert dashboard["editable"] is False
    assert dashboard["uid"] == "modelzoo-overview"
    assert "id" not in dashboard  # a number of one Grafana's database


def test_every_panel_says_what_it_shows_and_in_which_unit(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        assert panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
    titles = [panel["title"] for panel in panels]
    assert len(titles) == len(set(titles))


def test_every_panel_asks_the_chosen_data_source(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        assert panel["datasource"] == DATASOURCE, panel["title"]
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"]), panel["title"]


def test_the_choices_are_data_source_instance_and_model(dashboard: dict[str, Any]) -> None:
    datasource, *others = dashboard["templating"]["list"]
    assert (datasource["name"], datasource["type"]) == ("datasource", "datasource")
    assert [variable["name"] for variable in others] == ["instance", "model"]
    for variable in others:
        assert variable["datasource"] == DATASOURCE
        assert variable["query"]["query"].startswith("label_values(")
        assert variable["refresh"] == 2  # on a change of the time range
        assert (variable["multi"], variable["includeAll"]) == (True, True)


def test_the_data_source_that_is_chosen_first_is_the_provisioned_one(root: Path, dashboard) -> None:
    text = (root / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8")
    (provisioned,) = yaml.safe_load(text)["datasources"]
    assert dashboard["templating"]["list"][0]["current"]["value"] == provisioned["uid"]
    prometheus = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    assert provisioned["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_panels_neither_overlap_nor_leave_the_grid(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_rates_are_taken_over_the_interval_that_grafana_computes(panels: list[dict[str, Any]]) -> None:
    for title, expr in expressions(panels):
        ranges = re.findall(r"\[([^\]]*)\]", expr)
        assert set(ranges) <= {"$__rate_interval"}, title
        assert len(re.findall(r"\b(?:rate|increase|irate|delta)\(", expr)) == len(ranges), title


def test_every_selector_honours_the_choices(panels: list[dict[str, Any]], exported_metrics) -> None:
    for title, expr in expressions(panels):
        for metric, matchers in SELECTOR.findall(expr):
            assert 'instance=~"$instance"' in matchers, (title, metric)
            has_model = "model" in exported_metrics[family_of(metric, exported_metrics)].labels
            assert ('model=~"$model"' in matchers) == has_model, (title, metric)


def test_counters_are_rated_and_everything_is_aggregated(
    panels: list[dict[str, Any]], exported_metrics
) -> None:
    for title, expr in expressions(panels):
        selected = SELECTOR.findall(expr)
        assert len(re.findall(r"\b(?:sum|max) by \(", expr)) == len(selected), title
        for metric, _ in selected:
            family = exported_metrics[family_of(metric, exported_metrics)]
            cumulative = family.type in {"counter", "histogram"}
            rated = re.search(rf"rate\({metric}\{{", expr) is not None
            assert cumulative == rated or title in NOT_A_RATE, (title, metric)


def test_panels_ask_only_for_metrics_that_a_server_exports(
    panels: list[dict[str, Any]], exported_metrics
) -> None:
    asked = {metric for _, expr in expressions(panels) for metric, _ in SELECTOR.findall(expr)}
    assert {family_of(metric, exported_metrics) for metric in asked} - exported_metrics.keys() == set()


def test_every_metric_of_a_server_is_on_a_panel(panels: list[dict[str, Any]], exported_metrics) -> None:
    asked = {metric for _, expr in expressions(panels) for metric, _ in SELECTOR.findall(expr)}
    shown = {family_of(metric, exported_metrics) for metric in asked}
    ours = {name for name in exported_metrics if name.startswith(("modelzoo_", "grpc_server_"))}
    assert ours - shown == NOT_SHOWN.keys()


def test_labels_in_legends_and_aggregations_exist(panels: list[dict[str, Any]], exported_metrics) -> None:
    for panel in panels:
        for target in panel["targets"]:
            metrics = [metric for metric, _ in SELECTOR.findall(target["expr"])]
            labels = {"instance", "le"}.union(
                *(exported_metrics[family_of(metric, exported_metrics)].labels for metric in metrics)
            )
            by = {
                label.strip()
                for group in re.findall(r"by \(([^)]*)\)", target["expr"])
                for label in group.split(",")
            }
            assert by <= labels, panel["title"]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= by, panel["title"]


def test_grafana_is_given_the_dashboard_and_no_right_to_change_it(root: Path) -> None:
    text = (root / "deploy/grafana/provisioning/dashboards/modelzoo.yaml").read_text("utf-8")
    (provider,) = yaml.safe_load(text)["providers"]
    assert provider["allowUiUpdates"] is False
    compose = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))
    mounted = f"./deploy/grafana/dashboards:{provider['options']['path']}:ro"
    assert mounted in compose["services"]["grafana"]["volumes"]
    files = list((root / "deploy/grafana/dashboards").iterdir())
    assert [json.loads(file.read_text("utf-8"))["title"] for file in files] == ["modelzoo"]
