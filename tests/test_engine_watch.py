"""When an engine counts as stuck."""

from __future__ import annotations

import time
from typing import Any

from server.engine.heartbeat import CurrentWork, Work
from server.engine_client.watch import PATIENCE, Watch
from server.messages import Heartbeat, StepOutputs


def tick(watch: Watch, times: int, beat: Heartbeat | None = None) -> list[str]:
    found = []
    for _ in range(times):
        if beat is not None:
            watch.heard(beat)
        fault = watch.tick()
        if fault:
            found.append(fault)
    return found


def test_silence_is_a_fault_and_idleness_is_not() -> None:
    watch = Watch(8)
    assert not tick(watch, 100, Heartbeat("nothing", 0.0, 0.0))
    assert not tick(watch, 7)
    assert tick(watch, 1)
    watch.heard(StepOutputs())
    assert not tick(watch, 8)
    watch.reset()
    assert not tick(watch, 8)
    assert not tick(Watch(0), 1000), "0 is no watch at all"


def test_a_long_call_is_a_fault_once_it_is_far_longer_than_expected() -> None:
    watch = Watch(8)
    assert tick(watch, 1, Heartbeat("decode", 8.5, 0.01))
    assert watch.step_age == 8.5
    assert not tick(watch, 1, Heartbeat("decode", 8.0 + PATIENCE * 20, 20.0)), "a long prefill"
    assert tick(watch, 1, Heartbeat("decode", 9.0 + PATIENCE * 20, 20.0))


def test_a_heartbeat_says_what_is_most_overdue() -> None:
    work = CurrentWork()
    assert work.beat() == Heartbeat("nothing", 0.0, 0.0)
    now = time.monotonic()
    work["encoder"] = Work("encode", now, 100.0)
    work["loop"] = Work("decode", now, 0.5)
    assert (work.beat().what, work.beat().expected) == ("decode", 0.5)
    del work["loop"]
    assert work.beat().what == "encode"
    beats: list[Any] = []
    work.start(beats.append)
    end = time.monotonic() + 5
    while not beats and time.monotonic() < end:
        time.sleep(0.01)
    assert beats[0].what == "encode"
