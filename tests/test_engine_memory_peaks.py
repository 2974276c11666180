"""Peaks: the request that raises them is told, and others are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from engine_fakes import add, drain, make_core
from fakes import FakeEngine, chat, post_chat
from live import ROOT
from memory_fakes import GIB, gpu, ram

from server.memory.measured import system
from server.memory.measured.system import MemoryPeaks, ProcessMemory
from server.messages import MemoryPeak, RequestTimings, TokenOutput


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process's peak, one number that tests change."""
    value = [100]
    monkeypatch.setattr(system, "read_process", lambda: ProcessMemory(0, 0, value[0]))
    return value


def test_what_rises_while_a_request_runs_is_its_own(held: list[int]) -> None:
    watch = MemoryPeaks()
    first, second = watch.watch(), watch.watch()
    assert first() == ()
    held[0] = 130
    assert first() == (MemoryPeak("CPU", 130, 30),)
    assert second() == (MemoryPeak("CPU", 130, 30),), "it ran at the same time"
    assert watch.watch()() == ()


def test_a_card_s_peak_is_what_it_once_held(held: list[int]) -> None:
    free = [10 * GIB]
    watch = MemoryPeaks((gpu(0, 20 * GIB), ram()), lambda: (gpu(0, free[0]), gpu(7), ram()))
    begun = watch.watch()
    free[0] = 8 * GIB
    assert begun() == (MemoryPeak("CUDA0", 12 * GIB, 2 * GIB),)
    free[0] = 9 * GIB
    later = watch.watch()
    free[0] = 8 * GIB
    assert later() == (), "as much as before is no new peak"


def test_without_a_card_no_driver_is_asked(held: list[int]) -> None:
    def fail() -> tuple[()]:
        raise AssertionError

    assert MemoryPeaks((ram(),), fail).watch()() == ()


def test_the_last_output_carries_it(held: list[int]) -> None:
    core, _ = make_core()
    core.add(add("a", "abc"))
    held[0] = 150
    outputs = [o for o in drain(core)["a"] if isinstance(o, TokenOutput)]
    assert outputs[0].timings is not None
    assert outputs[0].timings.peaks == ()
    assert outputs[-1].timings is not None
    assert outputs[-1].timings.peaks == (MemoryPeak("CPU", 150, 50),)


OWN = """
from server.memory.measured.system import MemoryPeaks
begun = MemoryPeaks().watch()
block = bytearray(b"x") * (64 * 2**20)
(peak,) = begun()
print(peak.device, peak.raised_by)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells peaks on Linux alone")
def test_a_process_s_peak_rises_with_what_it_touches() -> None:
    told = subprocess.run([sys.executable, "-c", OWN], cwd=ROOT, capture_output=True, text=True,
                          check=True).stdout.split()  # fmt: skip
    assert told[0] == "CPU"
    assert 60 * 2**20 < int(told[1]) < 72 * 2**20


class _Peaking(FakeEngine):
    """Ends with timings, as a real engine does."""

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for output in super().generate(*args, **kwargs):
            if isinstance(output, TokenOutput) and output.finish_reason:
                times = RequestTimings(1.0, 2.0, 3.0, 4.0, (MemoryPeak("CPU", 500, 20),))
                output = output._replace(timings=times)  # noqa: PLW2901
            yield output


def test_the_answer_tells_it_and_else_says_nothing() -> None:
    body = post_chat(_Peaking(), chat()).json()
    assert body["memory_peaks"] == [{"device": "CPU", "bytes": 500, "raised_by": 20}]
    assert "memory_peaks" not in post_chat(FakeEngine(), chat()).json()
    streamed = post_chat(_Peaking(), chat(stream=True)).text
    assert '"memory_peaks":[{"device":"CPU","bytes":500,"raised_by":20}]' in streamed.replace(
        " ", ""
    )
