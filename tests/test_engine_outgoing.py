"""What waits in the engine, and for how long, before the web process is told."""

from __future__ import annotations

from typing import Any

import pytest
from engine_fakes import add, finish_encode, make_core, picture

from server.engine import loop as outgoing
from server.engine.loop import EngineLoop, OutputBuffer
from server.messages import Admitted, FinishReason, RequestTimings, StepOutputs, TokenOutput

INTERVAL = 0.025


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outgoing, "time", clock)
    return clock


def step(seconds: float, *more: Any, **changes: Any) -> StepOutputs:
    return StepOutputs((TokenOutput("r", "a", 2, **changes), *more), None, seconds)


def told(clock: Clock, seconds: float, count: int, interval: float = INTERVAL) -> list[int]:
    """How many steps each message is of."""
    sent: list[Any] = []
    out = OutputBuffer(sent.append, interval)
    out.flush()
    for _ in range(count):
        clock.now += seconds
        out.put(step(seconds), steady=True)
    return [len(message) if isinstance(message, list) else 1 for message in sent]


def test_tokens_of_short_steps_go_together(clock: Clock) -> None:
    assert told(clock, 0.008, 9) == [3, 3, 3]
    assert told(clock, 0.012, 6) == [2, 2, 2]
    assert told(clock, 0.013, 4) == [1, 1, 1, 1], "the next would come too late"
    assert told(clock, 0.008, 4, interval=0.0) == [1, 1, 1, 1]


def test_what_is_urgent_takes_all_along(clock: Clock) -> None:
    timings = RequestTimings(*([0.0] * 3))
    for urgent in (
        step(0.001, finish_reason=FinishReason.STOP),
        step(0.001, timings=timings),
        step(0.001, Admitted("other", 5, 0)),
    ):
        sent: list[Any] = []
        out = OutputBuffer(sent.append, INTERVAL)
        out.flush()
        waits = step(0.001)
        out.put(waits, steady=True)
        assert sent == []
        out.put(urgent, steady=True)
        assert sent == [[waits, urgent]]


def test_before_a_step_of_another_kind_nothing_waits(clock: Clock) -> None:
    sent: list[Any] = []
    out = OutputBuffer(sent.append, INTERVAL)
    out.flush()
    out.put(step(0.001), steady=False)
    assert len(sent) == 1
    out.put(step(0.001), steady=True)
    out.flush()
    assert len(sent) == 2


def test_only_decodes_are_steady() -> None:
    core, runner = make_core(n_seq=2, n_cells=300, slow_encodes=True)
    assert not core.scheduler.decodes_only
    core.add(add("stream", "abcdefgh", max_tokens=20))
    assert not core.scheduler.decodes_only
    core.step()
    assert core.scheduler.decodes_only
    core.add(add("picture", picture("x"), max_tokens=4))
    assert not core.scheduler.decodes_only, "one waits"
    core.step()
    assert not core.scheduler.decodes_only, "its picture is encoded"
    finish_encode(core, runner)
    assert not core.scheduler.decodes_only, "it will be prefilled"
    core.step()
    core.step()
    assert core.scheduler.decodes_only


class Inbox(list[Any]):
    """What is put in is taken with the next turn."""

    def take(self, *, wait: bool) -> list[Any]:
        taken = list(self)
        self.clear()
        return taken

    put = list.append


class Line(list[Any]):
    def send(self, message: Any) -> None:
        self.append(message)


def test_what_is_held_is_told_before_a_prompt_is_computed() -> None:
    core, runner = make_core(n_seq=2, n_cells=600, n_batch=300)
    inbox, line = Inbox(), Line()
    worker: Any = EngineLoop(core, inbox, line, stream_interval=10.0)  # type: ignore[arg-type]
    inbox.append(add("stream", "s" * 100, max_tokens=80))
    for _ in range(6):
        worker._iterate(wait=False)
    told = len(line)
    inbox.append(add("late", "l" * 200, max_tokens=1))
    decode, seen = runner.decode, []

    def watched(chunks: Any) -> Any:
        seen.append(len(line))
        return decode(chunks)

    runner.decode = watched  # type: ignore[method-assign]
    worker._iterate(wait=False)
    assert isinstance(line[told], list), "all five steps that were held"
    assert seen[0] > told, "before the step"
