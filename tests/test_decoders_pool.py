"""Decoders do what they are asked, and each limit ends exactly the one that exceeds it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
from live import gone

from server.decoders import pool as pool_module
from server.decoders import process
from server.decoders.pool import DecoderPool, Done, Work
from server.decoders.process import nursery
from server.decoders.work import DecoderLimits
from server.errors import EngineError, RequestError
from server.usage import Usage

LIMITS = DecoderLimits(
    memory_bytes=200 * 1024**2, cpu_seconds=0.6, wall_seconds=30.0, shared_bytes=64 * 1024**2
)


class Counted:
    """What the pool reports."""

    def __init__(self) -> None:
        self.alive = 0
        self.ended: Counter[str] = Counter()

    def decoders(self, alive: int) -> None:
        self.alive = alive

    def decoder_ended(self, reason: str) -> None:
        self.ended[reason] += 1


class Pool(DecoderPool):
    """A pool of the tests' jobs."""

    def __init__(self, count: int = 2, **limits: Any) -> None:
        self.counted = Counted()
        self.usage = Usage()
        bounds = {name: limits.get(name, getattr(LIMITS, name)) for name in DecoderLimits.__slots__}
        modules = ("decoder_jobs",)
        super().__init__(DecoderLimits(**bounds), count, modules, self.counted, self.usage)

    def do(
        self, name: str, *arguments: Any, data: bytes = b"abc", client: str = "me"
    ) -> Coroutine[Any, Any, Done]:
        digest = hashlib.sha256(name.encode() + repr(arguments).encode() + data).digest()
        return self.run(Work(f"decoder_jobs:{name}", data, digest, arguments), client)


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nursery finds the tests' own module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def running(test: Callable[[Pool], Coroutine[Any, Any, None]], pool: Pool | None = None) -> None:
    async def go() -> None:
        one = pool or Pool()
        try:
            await test(one)
        finally:
            one.close()

    asyncio.run(go())


@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_000, 20_000_000])
def test_bytes_come_back_and_processes_are_used_again(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "QUANTUM", 10.0)  # or a busy machine would call it slow

    async def go(pool: Pool) -> None:
        data = os.urandom(size)
        pids = set()
        for number in range(3):
            done = await pool.do("mirror", number, {"a": (1, 2)}, data=data)
            assert done.decoded.buffers == (data, data[::-1])
            assert done.decoded.fields["arguments"] == [number, {"a": [1, 2]}]
            pids.add(done.decoded.fields["pid"])
        assert len(pids) == 1
        assert os.getpid() not in pids

    running(go)


def test_a_large_result_stays_in_its_memory_and_can_no_longer_change() -> None:
    async def go(pool: Pool) -> None:
        data = os.urandom(2_000_000)
        (view,) = (await pool.do("keep", data=data)).decoded.buffers
        assert isinstance(view, memoryview)
        assert view.readonly
        assert set((await pool.do("alter")).decoded.fields["found"].values()) == {"PermissionError"}
        assert view == data
        assert not pool.counted.ended  # it was the same decoder

    running(go, Pool(count=1))


def held() -> tuple[int, int]:
    """Open files, and mappings of memory that was a decoder's."""
    maps = Path("/proc/self/maps").read_text()
    return psutil.Process().num_fds(), maps.count("memfd:llava-decoder")


def test_its_memory_ends_with_the_last_view_of_it() -> None:
    async def go(pool: Pool) -> None:
        await pool.do("mirror")
        files, maps = held()
        many = [(await pool.do("mirror", n, data=bytes(2_000_000))).decoded for n in range(5)]
        views = [each.buffers[1] for each in many]
        assert held() == (files - 1, maps + 5)  # the decoder's next memory comes with its next job
        del many
        assert [view[-1] for view in views] == [0] * 5
        del views
        assert held() == (files - 1, maps)

    running(go, Pool(count=1))


def test_a_decoder_that_could_change_its_result_is_not_believed() -> None:
    async def go(pool: Pool) -> None:
        with pytest.raises(EngineError, match="lost twice"):
            await pool.do("hold", data=bytes(2_000_000))

    running(go)


def test_a_result_beyond_the_shared_memory_s_limit_exceeds_the_memory() -> None:
    async def go(pool: Pool) -> None:
        with pytest.raises(RequestError, match="of memory to decode"):
            await pool.do("mirror", data=bytes(6_000_000))
        assert pool.counted.ended == {"memory": 1}

    running(go, Pool(shared_bytes=10_000_000))


def test_without_memfd_a_temporary_file_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "memfd_create", raising=False)

    async def go(pool: Pool) -> None:
        done = await pool.do("mirror", data=b"x" * 3_000_000)
        assert done.decoded.buffers[0] == b"x" * 3_000_000

    running(go)


def test_a_refusal_and_a_fault_leave_the_decoder_alive() -> None:
    async def go(pool: Pool) -> None:
        first = (await pool.do("mirror")).decoded.fields["pid"]
        with pytest.raises(RequestError, match="It is damaged") as raised:
            await pool.do("refuse")
        assert raised.value.code == "damaged"
        with pytest.raises(EngineError, match="fault of this server"):
            await pool.do("fail")
        assert (await pool.do("mirror")).decoded.fields["pid"] == first
        assert not pool.counted.ended

    running(go)


@pytest.mark.parametrize(
    ("job", "reason", "says"),
    [
        ("work", "cpu", "more than 0.6 s of processor time"),
        ("grow", "memory", "more than 200 MiB of memory"),
        ("crash", "crash", "makes its decoder crash"),
    ],
)
def test_what_exceeds_a_limit_is_ended_told_so_and_remembered(
    job: str, reason: str, says: str
) -> None:
    async def go(pool: Pool) -> None:
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(RequestError, match=says) as raised:
                await pool.do(job)
            assert raised.value.code == "decode_limit_exceeded"
        # The second one was refused at once.
        assert pool.counted.ended == {reason: 1}
        assert time.monotonic() - began < 20
        assert (await pool.do("mirror")).decoded.buffers[0] == b"abc"

    running(go)


def test_wall_time_is_bounded_but_blamed_on_no_file() -> None:
    async def go(pool: Pool) -> None:
        for _ in range(2):
            with pytest.raises(RequestError, match=r"not decoded within 0\.5 s"):
                await pool.do("sleep")
        assert pool.counted.ended == {"wall": 2}

    running(go, Pool(wall_seconds=0.5))


def test_what_the_system_kills_is_tried_once_more() -> None:
    async def go(pool: Pool) -> None:
        with pytest.raises(EngineError, match="lost twice"):
            await pool.do("vanish")
        assert pool.counted.ended == {"lost": 2}

    running(go)


def test_a_decoder_that_was_killed_while_idle_is_replaced_unnoticed() -> None:
    async def go(pool: Pool) -> None:
        first = (await pool.do("mirror")).decoded.fields["pid"]
        os.kill(first, 9)
        assert gone(first)
        assert (await pool.do("mirror")).decoded.fields["pid"] != first

    running(go)


def test_a_nursery_that_was_killed_is_started_again() -> None:
    async def go(pool: Pool) -> None:
        await pool.do("mirror")
        popen = nursery("decoder_jobs")._popen
        assert popen is not None
        popen.kill()
        popen.wait()
        pool.close()
        assert (await pool.do("mirror")).decoded.buffers[0] == b"abc"

    running(go)


def test_ctrl_c_is_for_the_web_process() -> None:
    async def go(pool: Pool) -> None:
        await pool.do("mirror")
        popen = nursery("decoder_jobs")._popen
        assert popen is not None
        popen.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        assert popen.poll() is None
        assert (await pool.do("mirror")).decoded.buffers[0] == b"abc"

    running(go)


def test_a_client_who_leaves_frees_the_place_and_ends_the_process() -> None:
    async def go(pool: Pool) -> None:
        tasks = [asyncio.ensure_future(pool.do("work", 50.0, client=str(n))) for n in range(3)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for task in tasks:
            task.cancel()
        assert (await pool.do("mirror")).decoded.buffers[0] == b"abc"
        assert time.monotonic() - began < 2
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*pool._background)
        assert pool.counted.ended == {"left": 2}

    running(go, Pool(cpu_seconds=60.0))


def test_short_work_does_not_wait_behind_long_work() -> None:
    """Six files of 1.5 s each from the same client, and two places."""

    async def go(pool: Pool) -> None:
        long = [
            asyncio.ensure_future(pool.do("work", 1.5, data=bytes([number]))) for number in range(6)
        ]
        await asyncio.sleep(1.5)
        waits = []
        for _ in range(10):
            began = time.monotonic()
            await pool.do("mirror")
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.05)
        assert sorted(waits)[5] < 0.2, waits
        assert not all(one.done() for one in long)
        assert len({done.decoded.buffers[0] for done in await asyncio.gather(*long)}) == 6

    running(go, Pool(cpu_seconds=60.0))


def test_at_most_one_process_more_than_there_are_places() -> None:
    async def go(pool: Pool) -> None:
        most = 0
        work = [
            asyncio.ensure_future(pool.do("work", 0.4, data=bytes([number]))) for number in range(5)
        ]
        while not all(one.done() for one in work):
            most = max(most, pool.counted.alive)
            await asyncio.sleep(0.02)
        assert most <= 3
        await asyncio.gather(*work)

    running(go, Pool(cpu_seconds=60.0))


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"),
    reason="elsewhere decoders have limits, and no filter of system calls",
)
def test_a_decoder_can_open_start_and_signal_nothing() -> None:
    async def go(pool: Pool) -> None:
        fields = (await pool.do("try_to_leave")).decoded.fields
        assert len(fields["found"]) == 14
        assert set(fields["found"].values()) == {"PermissionError"}, fields["found"]
        assert fields["secrets"] == []

    running(go)


def test_a_codec_may_start_a_thread() -> None:
    async def go(pool: Pool) -> None:
        assert (await pool.do("thread")).decoded.fields["answers"] == [3]

    running(go)


def test_api_keys_are_not_in_a_decoder_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert not {name for name in process._environment() if "KEY" in name}


def test_a_reply_that_is_none_loses_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a process that runs a client's code: longer than its memory, or no JSON."""

    async def go(pool: Pool) -> None:
        await pool.start()
        take = process.Decoder._take_reply

        def forged(decoder: process.Decoder, content: dict[str, Any], reply: Any) -> None:
            take(decoder, {**content, "places": [[0, 10**12]]}, reply)

        monkeypatch.setattr(process.Decoder, "_take_reply", forged)
        with pytest.raises(EngineError, match="lost twice"):
            await pool.do("mirror")

    running(go)


def test_a_closed_pool_leaves_no_process() -> None:
    async def go(pool: Pool) -> None:
        pids = [(await pool.do("mirror")).decoded.fields["pid"] for _ in range(2)]
        pool.close()
        assert all(gone(pid) for pid in pids)
        assert pool.counted.alive == 0

    running(go)


def test_a_client_who_fills_the_queue_is_passed_by_another() -> None:
    """One place; eight files of the hog's wait when somebody else's comes."""

    async def go(pool: Pool) -> None:
        hog = [
            asyncio.ensure_future(pool.do("work", 0.1, data=bytes([number]), client="hog"))
            for number in range(8)
        ]
        await hog[0]
        await pool.do("mirror", client="other")
        assert sum(one.done() for one in hog) <= 3
        await asyncio.gather(*hog)
        assert pool.usage.of("hog") > 0.5 > pool.usage.of("other")

    running(go, Pool(count=1, cpu_seconds=60.0))
