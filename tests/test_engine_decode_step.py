"""A step in which all running requests decode decides nothing, and gives the same answers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from engine_fakes import add, countdown, drain, finish_encode, make_core, picture, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.core import EngineCore
from server.messages import AbortRequest


def full_steps(core: EngineCore) -> list[int]:
    """Counts the steps that look at prefills, at waiting requests or at idle sequences."""
    seen: list[int] = []
    begin = core.scheduler._cells.begin_step

    def counted(running: Any) -> None:
        seen.append(len(running))
        begin(running)

    core.scheduler._cells.begin_step = counted  # type: ignore[method-assign]
    return seen


def test_decodes_alone_pass_no_prefill_machinery() -> None:
    core, _ = make_core(n_seq=2, n_cells=300)
    seen = full_steps(core)
    core.add(add("a", "x" * 30, max_tokens=25))
    core.add(add("b", "y" * 25, max_tokens=20))
    outputs = drain(core)
    assert text_of(outputs["a"]) == countdown(30)[: len(text_of(outputs["a"]))]
    # Prefills, the step after them, and the one after each end; 25 steps and more in all.
    assert len(seen) <= 10, seen


def test_a_decode_step_runs_code_of_few_files() -> None:
    """As ``python -m scripts.files_passed`` counts them in a real server, llama.cpp's aside."""
    core, _ = make_core(n_seq=2, n_cells=300)
    core.add(add("a", "x" * 30, max_tokens=25))
    for _ in range(6):
        core.step()
    passed: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        _, ours, name = frame.f_code.co_filename.partition("/server/engine/")
        if ours and event == "call":
            passed.add(name)

    sys.setprofile(note)
    try:
        for _ in range(5):
            assert core.has_work
            core.step()
    finally:
        sys.setprofile(None)
    cells = {f"scheduling/{name}.py" for name in ("scheduler", "kv_cells", "step")}
    others = {"scheduling/prompt_keys.py"}  # the fake runner's
    assert passed - others == {"core.py", "request.py", "output_text.py", *cells}


def test_waiting_requests_are_not_compared_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, _ = make_core(n_seq=4, n_cells=100)
    core.add(add("a", "x" * 50, max_tokens=40))
    for _ in range(5):
        core.step()
    core.add(add("b", "y" * 60, max_tokens=2))
    core.step()
    core.step()
    assert core.scheduler.waiting, "it does not fit beside the other one"

    def fail(*_: Any) -> None:
        raise AssertionError("compared again")

    with monkeypatch.context() as patch:
        patch.setattr(core.scheduler._cells, "find", fail)
        for _ in range(10):
            assert core.step().outputs
    core.abort(AbortRequest("a"))
    assert text_of(drain(core)["b"]) == "60,59,"


def test_an_abort_or_an_encode_is_seen_by_the_next_step() -> None:
    core, runner = make_core(n_seq=1, n_cells=200, slow_encodes=True)
    core.add(add("a", "x" * 40))
    core.add(add("b", "text", picture("p"), max_tokens=3))
    for _ in range(5):
        core.step()
    core.abort(AbortRequest("a"))
    core.step()
    assert [request.request_id for request in core.scheduler.running] == ["b"]
    finish_encode(core, runner)
    assert text_of(drain(core, runner)["b"]) == "13,12,11,"


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.text("ab", min_size=1, max_size=40), st.integers(1, 12)),
        min_size=1,
        max_size=8,
    ),
    st.integers(45, 150),
    st.integers(8, 64),
)
def test_answers_are_those_of_full_steps(
    asked: list[tuple[int, str, int]], n_cells: int, idle_cells: int
) -> None:
    found = []
    for always_full in (False, True):
        core, _ = make_core(n_seq=3, n_cells=n_cells, idle_cells=idle_cells)
        outputs: list[Any] = []
        for number, (steps, text, tokens) in enumerate(asked):
            for _ in range(steps):
                if core.has_work:
                    core.scheduler._changed |= always_full
                    outputs += core.step().outputs
            core.add(add(str(number), text, max_tokens=tokens))
        while core.has_work:
            core.scheduler._changed |= always_full
            outputs += core.step().outputs
        found.append([text_of([o for o in outputs if o.request_id == str(n)]) for n in range(8)])
    assert found[0] == found[1]
