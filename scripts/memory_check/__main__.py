"""Prints, for each case, what was planned, what llama.cpp allocated, and the error.

    python -m scripts.memory_check                 the small cases, in seconds
    python -m scripts.memory_check --full          models of real shapes: up to 12 GB of RAM
    python -m scripts.memory_check --full --markdown > table.md

Files are written with holes for weights and deleted after use. Exits with 1 where a part or a total
is off by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.memory_check.cases import FULL, REDUCED, Case
from scripts.synthetic.files import write_pair
from scripts.synthetic.shapes import PRESETS
from scripts.synthetic.weights import QUANTS
from server.gguf.model_header import read_model_header, read_tower_header
from server.memory.estimate.plan import plan_memory
from server.memory.estimate.vision import vision_shape
from server.mmproj.faults import Faults
from server.mmproj.prepare import prepare

_MIB: Final = 1 << 20
_ALLOWED: Final = 0.02
# llama.cpp prints hundredths of a mebibyte: less than this is no error.
_ROUNDING: Final = 0.011 * _MIB
_TYPES: Final = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
PARTS: Final = ("weights", "kv_cache", "compute", "output", "vision_encoder", "vision_compute")

_TITLE: Final = (
    "| case | weights | KV cache | compute | output | tower | its compute | total | worst part, MiB"
    " | total | process |\n|---|" + "---:|" * 10
)


@dataclass(slots=True, frozen=True)
class Row:
    """A part of a case in bytes; ``total`` and ``process`` are parts too."""

    case: Case
    part: str
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """The plan's error as a fraction of what was measured."""
        return (self.planned - self.measured) / self.measured if self.measured else 0.0

    @property
    def wrong(self) -> bool:
        """Whether the plan is off by more than it may be."""
        off = abs(self.planned - self.measured)
        return self.part != "process" and off > max(_ROUNDING, _ALLOWED * self.measured)


def check(case: Case, folder: Path) -> list[Row]:
    """Writes the files, plans, loads them in a process, and compares."""
    llm, tower = write_pair(
        folder, "case", PRESETS[case.shape], quant=QUANTS[case.quant], empty=True
    )
    try:
        header = read_tower_header(tower)
        plan = plan_memory(read_model_header(llm), header, case.settings)
        taken = prepare(
            tower, faults=Faults(), fix=True, image_size=case.image_size, cache_dir=folder
        )
        side = round(vision_shape(header, case.settings).pixels ** 0.5)
        measured = _measure(case, llm, taken.path, side)
    finally:
        for path in folder.rglob("*.gguf"):
            path.unlink()
    parts = measured["parts"]
    rows = [Row(case, part, plan.of(part), parts.get(part, 0.0)) for part in PARTS]
    rows.append(Row(case, "total", plan.total, sum(parts.values())))
    rows.append(Row(case, "process", plan.total, measured["used"]))
    return rows


def _measure(case: Case, llm: Path, tower: Path, side: int) -> dict[str, dict[str, float]]:
    settings = case.settings
    wanted = {
        "model": str(llm), "mmproj": str(tower), "n_ctx": settings.ctx_size,
        "n_seq_max": settings.n_seq_max, "n_batch": settings.n_batch,
        "n_ubatch": settings.n_ubatch, "type_k": _TYPES[case.cache], "type_v": _TYPES[case.cache],
        "flash_attn": case.flash_attn, "side": side, "batch": case.batch,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "scripts.memory_check.measure", json.dumps(wanted)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{case.words}: {done.stderr[-500:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def as_text(rows: list[Row]) -> Iterator[str]:
    """A case as lines of text."""
    yield f"{rows[0].case.words}\n  {'part':<16}{'planned':>12}{'measured':>12}{'error':>10}"
    for row in rows:
        mark = " WRONG" if row.wrong else ""
        planned, measured = row.planned / _MIB, row.measured / _MIB
        yield f"  {row.part:<16}{planned:>12.2f}{measured:>12.2f}{row.error:>+10.2%}{mark}"


def as_row(rows: list[Row]) -> str:
    """A case as a line of a table: what was planned in MiB, and how far off that was."""
    found = {row.part: row for row in rows}
    cells = [f"{found[part].planned / _MIB:.1f}" for part in (*PARTS, "total")]
    parts = [found[part] for part in PARTS]
    worst = max(parts, key=lambda row: abs(row.planned - row.measured))
    off = (worst.planned - worst.measured) / _MIB
    cells += [f"{off:+.3f}", f"{found['total'].error:+.2%}", f"{found['process'].error:+.1%}"]
    return f"| {rows[0].case.words} | {' | '.join(cells)} |"


def main() -> int:
    """Checks all cases."""
    parser = argparse.ArgumentParser(prog="memory_check", description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", default="", help="cases whose words contain this")
    parser.add_argument("--folder", type=Path, help="where the files are written")
    options = parser.parse_args()
    if options.markdown:
        print(_TITLE)
    wrong = 0
    for case in FULL if options.full else REDUCED:
        if options.only not in case.words:
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows = check(case, Path(folder))
        print(as_row(rows) if options.markdown else "\n".join(as_text(rows)), flush=True)
        wrong += sum(row.wrong for row in rows)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
