"""A Grafana dashboard over what `export prometheus` has scraped, in the form that Grafana imports."""

from __future__ import annotations

from typing import Any

from dynamoctl.export.grafana_panels import ALL, ROWS, Panel

# The last of Grafana's classic form, which every Grafana from 12 on imports as it is.
_SCHEMA_VERSION = 42
_COLUMNS = 24
_WIDTH, _HEIGHT = 8, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(_row(title, y))
        y += 1
        width = _COLUMNS if len(row) == 1 else _WIDTH
        height = _HEIGHT // 2 if len(row) == 1 else _HEIGHT
        for number, panel in enumerate(row):
            down, right = divmod(number * width, _COLUMNS)
            place = {"x": right, "y": y + down * height, "w": width, "h": height}
            panels.append(_panel(panel, place))
        y += -(-len(row) * width // _COLUMNS) * height
    for number, one in enumerate(panels, 1):
        one["id"] = number
    return {
        "uid": "dynamoctl",  # the same at every import: a new one takes the old one's place
        "title": "dynamoctl",
        "tags": ["dynamo", "vllm", "lmcache", "nixl"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _variable("deployment", 'label_values(up{role="frontend"}, deployment)'),
        _variable("unit", f"label_values(up{{{ALL}}}, unit)"),
    ]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes: deployments come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _row(title: str, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
    return {"type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        field["max"] = panel.most
    if panel.kind == "stat":
        field["mappings"] = [
            {
                "type": "value",
                "options": {"0": {"text": "down", "color": "red"}, "1": {"text": "up", "color": "green"}},
            }
        ]
        options: dict[str, Any] = {
            "colorMode": "background",
            "graphMode": "none",
            "textMode": "value_and_name",
        }
    else:
        field["custom"] = {"drawStyle": "line", "fillOpacity": 8, "showPoints": "never"}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.means,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "editorMode": "code",
            }
            for number, query in enumerate(panel.queries)
        ],
    }
