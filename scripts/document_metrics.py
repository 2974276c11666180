"""Writes the table of docs/metrics.md from the families themselves.

python -m scripts.document_metrics
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from server.engine_client.interface import EngineState
from server.messages import (
    BuildFacts,
    DeviceMemory,
    EngineReady,
    MemoryPart,
    MemoryReport,
    ModelFacts,
    SchedulerStats,
    StepOutputs,
    VisionFacts,
)
from server.metrics import Metrics

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
HEADINGS = {
    "llava_image": "Pictures",
    "llava_mm": "Pictures",
    "llava_engine_process": "Processes",
    "llava_engine": "Engine",
    "llava_memory": "Memory",
    "llava_ram": "Memory",
    "llava_model_layers": "Memory",
    "llava_kv_cache_cells": "Memory",
    "llava_device": "Memory",
    "llava_": "Requests and server",
    "llamacpp:": "llama-server's names",
    "process_": "Processes",
}


class Loaded:
    """An engine that has loaded some model, so that all families appear."""

    state = EngineState.READY
    stats = SchedulerStats()
    restarts = 0
    pauses = 0
    ready = EngineReady(
        model=ModelFacts("model", "llama", "", 1, 1, 1, 1, 1, 1, 1, 1, None, "", ""),
        vision=VisionFacts("mlp", True, 1, 1, 1, 1, (0, 0, 0), True, (), (), "CPU"),
        memory=MemoryReport(
            (DeviceMemory("CPU", "", "cpu", 1, 1),), (MemoryPart("kv", "CPU", 1, 1),)
        ),
        build=BuildFacts("", (), False, ""),
        load_seconds=0.0,
        pid=os.getpid(),
    )

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        """Nothing steps here."""


def families() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Each family's name as it is scraped, with its kind, its text, and its labels."""
    metrics = Metrics(Loaded(), "model")
    metrics.failed(400, "code")
    metrics.http.answered("/", 200)
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {key for sample in family.samples for key in sample.labels}
        labels -= {"le", "model_name"}
        found[name] = (family.type, family.documentation, tuple(sorted(labels)))
    return found


def heading(name: str) -> str:
    """The chapter that a family belongs to."""
    return next(title for prefix, title in HEADINGS.items() if name.startswith(prefix))


def tables() -> Iterator[str]:
    """The lines of the generated part."""
    known = families()
    for title in dict.fromkeys(HEADINGS.values()):
        yield from ("", f"### {title}", "", "| name | kind | labels | what |", "|---|---|---|---|")
        for name, (kind, text, labels) in sorted(known.items()):
            if heading(name) == title:
                yield f"| `{name}` | {kind} | {', '.join(labels)} | {text} |"


def written(document: str) -> str:
    """The document with a fresh table."""
    part = "\n".join([BEGIN, *tables(), "", END])
    return re.sub(f"{BEGIN}.*{END}", lambda _: part, document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
