"""Small files that are dear to decode: each is bounded in time and memory, whatever its codec."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter

import psutil
import pytest
from image_files import corners, encode, tower

from scripts.hardening.hostile import HOSTILE
from server.decoders.pool import DecoderPool, Work
from server.decoders.work import DecoderLimits
from server.errors import RequestError
from server.images.options import ImageLimits, ImageOptions
from server.images.prepared import JOBS, PREPARE
from server.usage import Usage

CPU_SECONDS, MEMORY = 1.0, 300 * 1024**2
LIMITS = DecoderLimits(memory_bytes=MEMORY, cpu_seconds=CPU_SECONDS, wall_seconds=300.0)
OPTIONS = ImageOptions(limits=ImageLimits(max_pixels=51_000_000))


class Counted:
    """What was ended, and the most memory that any decoder had."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()

    def decoders(self, alive: int) -> None:
        """Of no interest here."""

    def decoder_ended(self, reason: str) -> None:
        self.ended[reason] += 1


def most_memory(pids: list[int]) -> int:
    most = 0
    for pid in pids:
        try:
            most = max(most, psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue
    return most


async def decode(pool: DecoderPool, data: bytes) -> tuple[str, float, int]:
    """The answer, the processor time that was charged, and the most memory of any decoder."""
    work = Work(PREPARE, data, hashlib.sha256(data).digest(), (tower(image_size=336), OPTIONS))
    task = asyncio.ensure_future(pool.run(work, "hostile"))
    most, us = 0, psutil.Process()
    while not task.done():
        await asyncio.wait({task}, timeout=0.02)
        most = max(most, most_memory([child.pid for child in us.children(recursive=True)]))
    try:
        await task
    except RequestError as error:
        return error.message, pool._usage.of("hostile"), most
    return "decoded", pool._usage.of("hostile"), most


@pytest.mark.parametrize("name", HOSTILE)
def test_time_and_memory_are_bounded_and_the_next_picture_is_decoded(name: str) -> None:
    async def go() -> None:
        counted = Counted()
        pool = DecoderPool(LIMITS, 2, (JOBS,), counted, Usage())
        try:
            data = HOSTILE[name](1_500_000)
            answer, took, most = await decode(pool, data)
            assert took < CPU_SECONDS + 0.5, answer
            assert most < MEMORY + 100 * 1024**2, answer
            if counted.ended:
                # The second time it is refused before anything is spent.
                began = time.monotonic()
                assert (await decode(pool, data))[0] == answer
                assert time.monotonic() - began < 0.5
            assert (await decode(pool, encode(corners(), "PNG")))[0] == "decoded"
        finally:
            pool.close()

    asyncio.run(go())


def test_the_refusal_names_the_limit_and_its_value() -> None:
    async def go() -> None:
        pool = DecoderPool(LIMITS, 2, (JOBS,), Counted(), Usage())
        try:
            answer, _, _ = await decode(pool, HOSTILE["jpeg-scans"](1_500_000))
            assert answer.startswith("The picture takes more than 1 s of processor time")
        finally:
            pool.close()

    asyncio.run(go())
