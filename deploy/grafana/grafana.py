"""Grafana's form of a dashboard, as far as ours needs it; dashboard.py fills it.

The form is version 1 of the dashboard's JSON, which Grafana reads from files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

GRID_COLUMNS = 24
PANEL_HEIGHT = 8
SCHEMA_VERSION = 42  # of Grafana 12; newer ones translate it when they load it
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

INSTANCE = 'instance=~"$instance"'
MODEL = 'model=~"$model"'

Json = dict[str, Any]
Kind = Literal["timeseries", "heatmap", "stat", "table"]


def of(metric: str, *matchers: str) -> str:
    """Select a metric's series on the chosen instances."""
    return f"{metric}{{{','.join((INSTANCE, *matchers))}}}"


def total(by: str, metric: str, *matchers: str) -> str:
    """Add up a gauge."""
    return f"sum by ({by}) ({of(metric, *matchers)})"


def highest(by: str, metric: str, *matchers: str) -> str:
    """Take the highest of a gauge's values."""
    return f"max by ({by}) ({of(metric, *matchers)})"


def rate(by: str, metric: str, *matchers: str) -> str:
    """Add up a counter's rates, per second."""
    return f"sum by ({by}) (rate({of(metric, *matchers)}[$__rate_interval]))"


def quantile(share: float, by: str, histogram: str, *matchers: str) -> str:
    """Estimate what this share of a histogram's observations did not exceed."""
    return f"histogram_quantile({share}, {rate(f'le, {by}', f'{histogram}_bucket', *matchers)})"


def mean(by: str, histogram: str, *matchers: str) -> str:
    """Divide a histogram's sum by its count; nothing where nothing was observed."""
    count = rate(by, f"{histogram}_count", *matchers)
    return f"{rate(by, f'{histogram}_sum', *matchers)} / ({count} > 0)"


@dataclass(frozen=True)
class Panel:
    """A picture of some queries' answers.

    Attributes:
        unit: Grafana's name of the unit.
        queries: PromQL by the legend of its answers.
        width: in columns of the grid.
        stacked: whether the lines add up to something.
        limits: fixed ends of the axis, so that a level is seen for what it is.
        alarm: what the values 0 and 1 are shown as; 1 in red.
    """

    title: str
    unit: str
    description: str
    queries: Mapping[str, str]
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    limits: tuple[float, float] | None = None
    alarm: tuple[str, str] | None = None

    def to_json(self, number: int, x: int, y: int) -> Json:
        """Return the panel at a place of the grid."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "gridPos": {"h": PANEL_HEIGHT, "w": self.width, "x": x, "y": y},
            "datasource": DATASOURCE,
            "targets": [
                self._target(chr(ord("A") + index), legend, expr)
                for index, (legend, expr) in enumerate(self.queries.items())
            ],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": _OPTIONS[self.kind],
        } | ({"transformations": [_WITHOUT_VALUES]} if self.kind == "table" else {})

    def _target(self, name: str, legend: str, expr: str) -> Json:
        now = self.kind in {"stat", "table"}
        form = {"heatmap": "heatmap", "table": "table"}.get(self.kind, "time_series")
        return {
            "refId": name,
            "datasource": DATASOURCE,
            "expr": expr,
            "legendFormat": legend,
            "format": form,
            "instant": now,
            "range": not now,
        }

    def _defaults(self) -> Json:
        defaults: Json = {"unit": self.unit}
        if self.kind == "timeseries":
            stacking = {"mode": "normal" if self.stacked else "none", "group": "A"}
            defaults |= {"min": 0, "custom": {"fillOpacity": 10, "showPoints": "never", "stacking": stacking}}
        if self.limits is not None:
            defaults |= dict(zip(("min", "max"), self.limits, strict=True))
        if self.alarm is not None:
            shown = {str(value): {"text": text} for value, text in enumerate(self.alarm)}
            steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
            defaults |= {
                "mappings": [{"type": "value", "options": shown}],
                "thresholds": {"mode": "absolute", "steps": steps},
            }
        return defaults


_WITHOUT_VALUES: Json = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
_OPTIONS: dict[Kind, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "heatmap": {
        "calculate": False,  # the buckets are the server's
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Blues",
            "steps": 64,
            "fill": "blue",
            "exponent": 0.5,
            "reverse": False,
        },
        "exemplars": {"color": "orange"},
        "filterValues": {"le": 1e-9},  # a size that did not occur stays empty
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"unit": "none", "axisPlacement": "left"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "showPercentChange": False,
        "wideLayout": True,
    },
    "table": {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"},
}


@dataclass(frozen=True)
class Variable:
    """A choice above the dashboard, among the values of a label; all of them at first."""

    name: str
    label: str
    values: str

    def to_json(self) -> Json:
        """Return the variable."""
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "datasource": DATASOURCE,
            "query": {"query": self.values, "refId": self.name},
            "refresh": 2,  # whenever the time range changes
            "sort": 1,  # by name
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels under some choices.

    Attributes:
        datasource_uid: the data source that is chosen at first.
        rows: panels by the heading of their row.
    """

    uid: str
    title: str
    description: str
    datasource_uid: str
    variables: tuple[Variable, ...]
    rows: Mapping[str, tuple[Panel, ...]] = field(default_factory=dict)

    def to_json(self) -> Json:
        """Return what Grafana reads."""
        datasource = {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": "prometheus",
            "current": {"text": "Prometheus", "value": self.datasource_uid},
        }
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["modelzoo"],
            "editable": False,
            "schemaVersion": SCHEMA_VERSION,
            "time": {"from": "now-30m", "to": "now"},
            "refresh": "10s",
            "timezone": "browser",
            "graphTooltip": 1,  # one cross-hair over all panels
            "templating": {"list": [datasource, *(variable.to_json() for variable in self.variables)]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        """Lay the rows out, each panel right of the one before while it fits."""
        panels: list[Json] = []
        y = 0
        for title, row in self.rows.items():
            place = {"h": 1, "w": GRID_COLUMNS, "x": 0, "y": y}
            head = {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place}
            panels.append(head | {"collapsed": False, "panels": []})
            x, y = 0, y + 1
            for panel in row:
                if x + panel.width > GRID_COLUMNS:
                    x, y = 0, y + PANEL_HEIGHT
                panels.append(panel.to_json(len(panels) + 1, x, y))
                x += panel.width
            y += PANEL_HEIGHT
        return panels
