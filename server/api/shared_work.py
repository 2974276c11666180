"""SharedWork: what several requests wait for at the same time is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Work(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class SharedWork(Generic[K, T]):
    """Work under way, by its key. Lives on one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[K, _Work[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._under_way

    async def of(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the work that is under way for ``key``, or else of a new ``start()``.

        It belongs to all who wait for it: whoever leaves, even the first, leaves it to the others,
        and the last one to leave cancels it. Raises what it raises, to each of them.
        """
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _Work(asyncio.ensure_future(start()))
            work.task.add_done_callback(lambda _: self._forget(key, work))
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting and not work.task.done():
                # At once, so that nobody joins what is being cancelled.
                self._forget(key, work)
                work.task.cancel()

    def _forget(self, key: K, work: _Work[T]) -> None:
        if self._under_way.get(key) is work:
            del self._under_way[key]
        if work.task.done() and not work.task.cancelled():
            work.task.exception()  # nobody may be left to hear of it
