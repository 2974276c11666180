"""Merged: several streams read side by side as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
# Items that lie unread before the streams have to wait: a reader that stops holds no more.
MOST_UNREAD = 32


class Merged(Generic[T]):
    """What the streams bring, as it comes, each with its stream's number.

    ``aclose`` must be awaited however it ends, before the streams themselves are closed.
    """

    def __init__(self, streams: Sequence[AsyncIterable[T]]) -> None:
        self._streams = streams
        self._tasks: list[asyncio.Task[None]] = []

    async def __aiter__(self) -> AsyncIterator[tuple[int, T]]:
        """Ends with the last of them. Raises what any of them raises."""
        if len(self._streams) == 1:
            async for only in self._streams[0]:
                yield 0, only
            return
        items: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(MOST_UNREAD)
        self._tasks = [
            asyncio.create_task(_pump(number, stream, items))
            for number, stream in enumerate(self._streams)
        ]
        for _ in self._tasks:
            while (item := await items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item

    async def aclose(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(
    number: int,
    stream: AsyncIterable[T],
    items: asyncio.Queue[tuple[int, T] | Exception | None],
) -> None:
    """All of a stream into the queue, then None; or the error that ended it."""
    try:
        async for item in stream:
            await items.put((number, item))
    except Exception as error:
        await items.put(error)
    else:
        await items.put(None)
