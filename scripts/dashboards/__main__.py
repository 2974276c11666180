"""Writes deploy/grafana/dashboards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from scripts.dashboards.memory import memory
from scripts.dashboards.overview import overview
from scripts.dashboards.pictures import pictures

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"


def files() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file and its text."""
    for made in (overview(), pictures(), memory()):
        board = made.build()
        for number, panel in enumerate(board.panels or [], 1):
            panel.id_val = number
        name = str(board.uid).removeprefix("llava-")
        yield FOLDER / f"{name}.json", JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"


if __name__ == "__main__":
    for path, text in files():
        path.write_text(text, encoding="utf-8")
