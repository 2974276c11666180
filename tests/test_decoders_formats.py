"""What a decoder makes of each format is what the codecs make of it where nothing confines them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from image_files import encode, tower
from PIL import Image

from scripts.hardening.hostile import HOSTILE
from scripts.hardening.whole import whole_pictures
from server.decoders.pool import DecoderPool, Work
from server.decoders.work import DecoderLimits
from server.errors import RequestError
from server.images.options import ImageOptions, image_digest, source_digest
from server.images.prepare import prepare
from server.images.prepared import JOBS, PREPARE, unpack
from server.messages import ImageInput, VisionFacts
from server.usage import Usage

MIB = 1024**2
OPTIONS = ImageOptions()
SQUARE, ANY_SIZE = tower(image_size=336), tower(image_size=336, fixed=False)


class Decoders:
    """A pool with one place, and what it reports."""

    def __init__(self, memory: int = 2048 * MIB) -> None:
        self.ended: Counter[str] = Counter()
        self._pool = DecoderPool(DecoderLimits(memory), 1, (JOBS,), self, Usage())

    def decoders(self, alive: int) -> None:
        """Of no interest here."""

    def decoder_ended(self, reason: str) -> None:
        self.ended[reason] += 1

    async def prepare(self, data: bytes, facts: VisionFacts) -> ImageInput:
        source = source_digest(data)
        done = await self._pool.run(Work(PREPARE, data, source, (facts, OPTIONS)), "me")
        return unpack(done.decoded, image_digest(source, facts, OPTIONS), 0.0)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def go() -> None:
            try:
                await work
            finally:
                self._pool.close()

        asyncio.run(go())


def test_each_format_gives_the_pixels_that_it_gives_unconfined() -> None:
    """Among them HEIC, whose codec starts a thread."""
    decoders = Decoders()

    async def go() -> None:
        for name, data in whole_pictures().items():
            for facts in (SQUARE, ANY_SIZE):
                assert await decoders.prepare(data, facts) == prepare(data, facts, OPTIONS, None), (
                    name
                )
        assert not decoders.ended

    decoders.run(go())


def test_a_real_picture_of_a_million_strips_is_refused_for_its_memory() -> None:
    """Pillow takes 285 bytes for each strip before its size is known. Python may get stuck then."""
    decoders = Decoders(memory=100 * MIB)

    async def go() -> None:
        for _ in range(2):
            with pytest.raises(RequestError, match="more than 100 MiB of memory to decode"):
                await decoders.prepare(HOSTILE["tiff-strips"](1_500_000), SQUARE)
        assert decoders.ended == {"memory": 1}
        await decoders.prepare(encode(Image.new("RGB", (40, 30)), "TIFF"), SQUARE)

    decoders.run(go())


def test_an_honest_tiff_in_strips_needs_memory_for_its_pixels_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    data = encode(Image.fromarray(pixels), "TIFF", compression="tiff_lzw")
    small, large = Decoders(memory=8 * MIB), Decoders(memory=100 * MIB)

    async def refused() -> None:
        with pytest.raises(RequestError, match="more than 8 MiB of memory to decode"):
            await small.prepare(data, ANY_SIZE)

    async def taken() -> None:
        assert (await large.prepare(data, ANY_SIZE)).rgb == pixels.tobytes()

    small.run(refused())
    large.run(taken())
