"""Whose prompt is computed first: nobody waits for a long one to end, and no long one for ever."""

from __future__ import annotations

import pytest
from engine_fakes import add, make_core

from server.engine.core import EngineCore
from server.engine.scheduling.step import SMALLEST_CHUNK
from server.messages import TokenOutput


@pytest.mark.parametrize("one_batch", [0, 100])
def test_a_short_prompt_does_not_wait_for_a_long_one(one_batch: int) -> None:
    core = busy_core(one_batch)
    core.add(add("book", "b" * 1000, max_tokens=1))
    core.step()
    core.add(add("question", "a question", max_tokens=1))
    assert steps_to(core, "question") <= 2
    assert steps_to(core, "book") < 1000 / SMALLEST_CHUNK + 5, "it lost less than a step's prefill"


@pytest.mark.parametrize("one_batch", [0, 100])
def test_a_long_prompt_does_not_starve_among_short_ones(one_batch: int) -> None:
    core = busy_core(one_batch)
    core.add(add("book", "b" * 320, max_tokens=1))
    for step in range(2 * 320 // SMALLEST_CHUNK + 2):
        core.add(add(f"question {step}", f"{step:03} what is it?", max_tokens=1))
        outputs = [o for o in core.step().outputs if isinstance(o, TokenOutput)]
        if any(output.request_id == "book" for output in outputs):
            return
    raise AssertionError("half of each step was to be for the oldest")


def busy_core(one_batch: int) -> EngineCore:
    """Somebody's stream goes on for some hundred steps, so that prompts come in small chunks."""
    core, _ = make_core(4, 3000, 100, one_batch=one_batch)
    core.add(add("stream", "s" * 300, max_tokens=300))
    for _ in range(4):
        core.step()
    assert core.scheduler.running[0].decoding
    return core


def steps_to(core: EngineCore, request_id: str) -> int:
    """Steps until a request has its last output."""
    for step in range(1, 200):
        outputs = [o for o in core.step().outputs if isinstance(o, TokenOutput)]
        if any(o.request_id == request_id and o.finish_reason for o in outputs):
            return step
    raise AssertionError(f"{request_id} never ends")
