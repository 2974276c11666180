"""Text and pictures in one batch: what the scheduler plans, on a runner without llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from engine_fakes import (
    IMAGE_TOKENS,
    FakeRunner,
    add,
    countdown,
    drain,
    finish_encode,
    make_core,
    picture,
    text_of,
)

from server.engine.core import EngineCore
from server.engine.scheduling.prefill import make_budget
from server.engine.scheduling.step import SMALLEST_CHUNK
from server.messages import TokenOutput


def calls_of(core: EngineCore, runner: FakeRunner) -> list[int]:
    """Calls of ``decode`` in each step, to the end."""
    calls = []
    while core.scheduler.has_work:
        before = runner.calls
        core.step()
        calls.append(runner.calls - before)
    return calls


def give_rows(core: EngineCore) -> None:
    """All pictures are encoded."""
    for request in core.scheduler.waiting:
        for seen in request.pictures:
            seen.rows = np.zeros((seen.n_tokens, 4), np.float32)


@pytest.mark.parametrize(("one_batch", "expected"), [(64, [1]), (0, [2, 2, 1])])
def test_a_whole_prompt_with_pictures_is_one_call(one_batch: int, expected: list[int]) -> None:
    core, runner = make_core(n_cells=400, n_batch=64, one_batch=one_batch)
    core.add(add("a", "one", picture("x"), "two", picture("y"), "three", max_tokens=1))
    give_rows(core)
    assert calls_of(core, runner) == expected
    assert runner.prefilled["a"] == 11 + 2 * IMAGE_TOKENS


def test_a_picture_in_pieces_is_one_call_too() -> None:
    core, runner = make_core(n_cells=400, n_batch=64, kind="tiled", one_batch=64)
    core.add(add("a", "one", picture("x"), "two", max_tokens=1))
    # The text before the picture, while that is encoded; then all that is left.
    assert calls_of(core, runner) == [1, 1]


def test_streams_and_pictures_take_one_call_a_step_within_the_target() -> None:
    core, runner = make_core(n_cells=800, n_batch=64, slow_encodes=True, one_batch=64)
    core.add(add("stream", "a" * 100))
    core.step()
    core.step()
    for name in "xyz":
        core.add(add(name, "b" * 7, picture(name), "c" * 7))
    decoding = 1
    while core.scheduler.running[-1].num_computed < 14 + IMAGE_TOKENS:
        if core.pending:  # type: ignore[attr-defined]
            finish_encode(core, runner)
        calls, computed = runner.calls, runner.computed
        told = [o.request_id for o in core.step().outputs if isinstance(o, TokenOutput)]
        assert told[0] == "stream"
        assert runner.calls - calls == 1
        assert runner.computed - computed <= decoding + SMALLEST_CHUNK
        decoding = sum(request.decoding for request in core.scheduler.running)
    outputs = drain(core, runner)
    assert text_of(outputs["z"]).endswith(countdown(3))


def test_decodes_go_alone_beside_more_rows_than_share_a_batch() -> None:
    """On a CPU attention would compute each decode's context for all rows of its tile."""
    most = SMALLEST_CHUNK  # with the decode it is one more
    core, runner = make_core(n_cells=800, n_batch=64, one_batch=most)
    core.add(add("stream", "a" * 100))
    core.step()
    core.step()
    core.add(add("seen", "b" * 7, picture("x"), "c" * 40, max_tokens=1))
    give_rows(core)
    calls, computed = runner.calls, runner.computed
    core.step()
    assert (runner.calls - calls, runner.computed - computed) == (2, 1 + most)


def test_each_sequence_counts_once_in_a_batch() -> None:
    core, _ = make_core(n_cells=400, n_batch=64, one_batch=64)
    core.add(add("a", "one", picture("x"), "two", max_tokens=1))
    give_rows(core)
    drain(core)
    stats = core._stats()
    assert (stats.decodes, stats.decode_sequences) == (1, 1)


def test_what_a_batch_takes_is_shared_where_it_must_be() -> None:
    alone = make_budget(100, 50, None, shared=False)
    assert (alone.take_text(30), alone.text, alone.pictures) == (30, 70, 50)
    busy = make_budget(100, 50, 40, shared=False)
    assert (busy.take_text(30), busy.text, busy.pictures) == (30, 10, 10)
    together = make_budget(60, 100, None, shared=True)
    assert (together.take_pictures(30), together.text, together.pictures) == (30, 30, 30)
