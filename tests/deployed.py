"""What lies in deploy/, read: expressions of dashboards and alerts, and the two programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import ROOT

from scripts.prometheus_tools import NotAvailableError, Tools, find

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = ("rules.yml", "alerts.yml")
_COMPARISONS = ("==", "!=", ">=", "<=", ">", "<")


def tools() -> Tools:
    """Prometheus' programs; the test is skipped where they cannot be had.

    That is for want of a network, or of Debian, and no fault of ours: so it fails nothing, and
    pytest's summary (-ra) says at the end of the run what was not tried, and why.
    """
    found = _found()
    if isinstance(found, str):
        pytest.skip(f"dashboards, alerts and rules were not tried in a real Prometheus: {found}")
    return found


@cache
def _found() -> Tools | str:
    """The programs, or why there are none; fetching them is tried once."""
    try:
        return find()
    except NotAvailableError as error:
        return str(error)


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels of a dashboard that show something."""
    for panel in board["panels"]:
        yield from panel.get("panels", [])
        if panel["type"] != "row":
            yield panel


def dashboard_expressions() -> dict[str, str]:
    """Every query of every panel, by where it stands; Grafana's variables filled in."""
    found = {}
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel["targets"]:
                where = f"{path.stem}: {panel['title']} {target['refId']}"
                found[where] = _filled_in(target["expr"])
        for mark in json.loads(path.read_text())["annotations"]["list"]:
            found[f"{path.stem}: {mark['name']}"] = sides(_filled_in(mark["expr"]))[0]
    return found


def _filled_in(expr: str) -> str:
    for name, value in (("__rate_interval", "30s"), ("__range", "1h")):
        expr = expr.replace(f"${name}", value)
    return expr.replace("$model", ".*").replace("$instance", ".*")


def rules() -> Iterator[dict[str, Any]]:
    """Every recording rule and every alert."""
    for name in RULES:
        document = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for group in document["groups"]:
            yield from group["rules"]


def alert_expressions() -> dict[str, str]:
    """What each alert compares: both sides, those that are numbers left out."""
    found = {}
    for rule in rules():
        if "alert" in rule:
            for number, side in enumerate(sides(rule["expr"])):
                found[f"{rule['alert']} {number}"] = side
    return found


def sides(expr: str) -> list[str]:
    """The two sides of the outermost comparison; the vector matching goes with it.

    Of ``A unless B`` those of both, and of ``absent(A)`` those of A.
    """
    if absent := re.fullmatch(r"absent\((.*)\)", expr):
        return sides(absent[1])
    if " unless on " in " ".join(expr.split()):
        both = re.split(r"\s+unless on \([^)]*\)\s+", expr.strip())
        return [side for part in both for side in sides(part.removeprefix("("))]
    depth = 0
    text = re.sub(r'"[^"]*"', lambda quoted: "_" * len(quoted[0]), expr)
    for place, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0 and text.startswith(_COMPARISONS, place):
            end = place + (2 if text.startswith(_COMPARISONS[:4], place) else 1)
            right = re.sub(r"^\s*on \([^)]*\)( group_left \([^)]*\))?", "", expr[end:])
            both = [expr[:place].strip(), right.strip()]
            return [side for side in both if not re.fullmatch(r"[\d. *)]+", side)]
    raise AssertionError(f"no comparison in {expr}")


def metric_names(expr: str) -> set[str]:
    """Names of our metrics in an expression."""
    return set(
        re.findall(r"[\w:]*\b(?:llava_|llamacpp:|process_)\w[\w:]*", re.sub(r'"[^"]*"', "", expr))
    )


def prometheus_config(target: str, folder: Path) -> Path:
    """A copy of deploy/prometheus that scrapes ``target`` every half second."""
    for name in RULES:
        (folder / name).write_text((DEPLOY / "prometheus" / name).read_text())
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["scrape_timeout"] = "500ms"
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path
