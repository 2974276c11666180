"""The result as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from scripts.bench.figures import FIGURES, OURS, REFERENCE
from scripts.gpu_check.measure import CHOSEN, Shape

_MIB = 2**20


def lines(shapes: list[Shape]) -> Iterator[str]:
    """All tables, in Markdown: fit for docs/memory.md as they are."""
    for shape in shapes:
        yield f"### {shape.name}"
        yield ""
        yield from _parts(shape)
        yield ""
        yield from _card(shape)
        yield from _speed(shape)
        yield ""


def _parts(shape: Shape) -> Iterator[str]:
    yield "| part | device | planned MiB | measured MiB | error |"
    yield "|---|---|---|---|---|"
    total = [0, 0]
    for part in shape.memory["parts"]:
        planned, measured = part["predicted"], part["measured"]
        if planned is None or not measured:
            continue
        total = [total[0] + planned, total[1] + measured]
        mark = "~" if part["estimated"] else ""
        yield f"| {part['part']} | {part['device']} | {mark}{_row(planned, measured)}"
    yield f"| total | | {_row(*total)}"
    on = shape.memory["layers_offloaded"], shape.memory["layers"]
    yield ""
    yield f"Layers on the GPU: {on[0]} of {on[1]}; vision tower on {shape.memory['encoder']}."


def _row(planned: int, measured: int) -> str:
    error = (planned - measured) / measured if measured else 0.0
    return f"{planned / _MIB:.1f} | {measured / _MIB:.1f} | {error:+.1%} |"


def _card(shape: Shape) -> Iterator[str]:
    """What the driver says, which has each process's CUDA context too."""
    for server, (before, loaded, after) in shape.vram.items():
        if before is not None and loaded is not None and after is not None:
            taken, grown = (loaded - before) / _MIB, (after - loaded) / _MIB
            yield f"{server}: {taken:.0f} MiB of the card when ready, {grown:+.0f} MiB after use."
            yield ""


def _speed(shape: Shape) -> Iterator[str]:
    yield f"| figure | unit | {OURS} | {REFERENCE} | ratio |"
    yield "|---|---|---|---|---|"
    ours, theirs = shape.figures[OURS], shape.figures[REFERENCE]
    for name, figure in FIGURES.items():
        if figure.scenario in CHOSEN and name in ours and name in theirs:
            ratio = ours[name] / theirs[name] if theirs[name] else 0.0
            yield (
                f"| {figure.title} | {figure.unit} | {ours[name]:.3g} | {theirs[name]:.3g} |"
                f" {ratio:.2f} |"
            )


def write(shapes: list[Shape], machine: dict[str, object], out: Path) -> Path:
    """Everything as JSON; the file."""
    file = out / "gpu_check.json"
    content = {"machine": machine, "shapes": [asdict(shape) for shape in shapes]}
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return file
