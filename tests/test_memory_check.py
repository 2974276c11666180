"""Planned and allocated, part by part, on files small enough for every run.

Those of real shapes: ``python -m scripts.memory_check --full``, its table in docs/memory.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.memory_check.__main__ import check
from scripts.memory_check.cases import REDUCED, Case


@pytest.mark.parametrize("case", REDUCED, ids=lambda case: case.words)
def test_the_plan_is_what_llama_cpp_allocates(case: Case, tmp_path: Path) -> None:
    rows = check(case, tmp_path)
    assert {row.part for row in rows} >= {"weights", "kv_cache", "compute", "vision_compute"}
    assert not [(row.part, row.planned, row.measured) for row in rows if row.wrong]
    assert not list(tmp_path.rglob("*.gguf"))
