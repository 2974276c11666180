"""The dashboards are those that the script makes, and ask for families that there are."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from deployed import (
    DASHBOARDS,
    alert_expressions,
    dashboard_expressions,
    metric_names,
    panels,
    rules,
)

from scripts.document_metrics import families

sdk = pytest.importorskip("grafana_foundation_sdk", reason="it wants Python 3.11")


def scraped_names() -> set[str]:
    found = set()
    for name, (kind, _, _) in families().items():
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + ending for ending in endings}
    return found


def test_dashboards_are_as_the_script_makes_them() -> None:
    from scripts.dashboards.__main__ import files

    made = dict(files())
    assert sorted(made) == DASHBOARDS
    for path, text in made.items():
        assert path.read_text() == text, "run: python -m scripts.dashboards"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_grafana_s(path: Path) -> None:
    """Read by Grafana's own SDK, whose classes are made of Grafana's schema."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    document = json.loads(path.read_text())
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(document))) == document


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_a_title_a_text_and_a_place_of_their_own(path: Path) -> None:
    board = json.loads(path.read_text())
    boxes = []
    for panel in panels(board):
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        boxes.append((at["x"], at["y"], at["x"] + at["w"], at["y"] + at["h"]))
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


def test_all_ask_for_families_that_there_are() -> None:
    known = scraped_names() | {rule["record"] for rule in rules() if "record" in rule}
    asked = {**dashboard_expressions(), **alert_expressions()}
    asked |= {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    for where, expr in asked.items():
        assert metric_names(expr) <= known | {"up"}, where
    assert len(asked) > 80
