"""Several streams read as one: all that comes, and no more than is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from server.api.generate.choices import MOST_UNREAD, Merged


def test_all_of_every_stream_comes_in_its_order() -> None:
    async def stream(index: int, count: int) -> AsyncIterator[tuple[int, int]]:
        for number in range(count):
            yield index, number
            await asyncio.sleep(0)

    async def go() -> list[tuple[int, int]]:
        return [item async for item in Merged([stream(0, 3), stream(1, 0), stream(2, 200)])]

    got = asyncio.run(go())
    assert [number for index, number in got if index == 0] == [0, 1, 2]
    assert [number for index, number in got if index == 2] == list(range(200))


def test_a_reader_that_stops_stops_the_streams() -> None:
    pulled = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    async def go() -> None:
        merged = Merged([endless(), endless()])
        assert await anext(aiter(merged))
        await asyncio.sleep(0.05)
        await merged.aclose()

    asyncio.run(go())
    assert MOST_UNREAD <= pulled <= MOST_UNREAD + 4


def test_an_error_comes_behind_what_was_there_before_it() -> None:
    async def broken() -> AsyncIterator[int]:
        for number in range(MOST_UNREAD * 2):
            yield number
        raise ValueError("no more")

    async def silent() -> AsyncIterator[int]:
        await asyncio.sleep(3600)
        yield 0

    got: list[int] = []

    async def read(merged: Merged[int]) -> None:
        async for item in merged:
            got.append(item)

    async def go() -> None:
        merged = Merged([broken(), silent()])
        with pytest.raises(ValueError, match="no more"):
            await read(merged)
        await merged.aclose()

    asyncio.run(go())
    assert got == list(range(MOST_UNREAD * 2))
