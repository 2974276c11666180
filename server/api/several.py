"""Several: generations that run side by side and are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from server.api.generation import Generation
from server.messages import TokenOutput

T = TypeVar("T")
_Item = tuple[int, TokenOutput] | BaseException | None


class Several:
    """The outputs of some generations as they come, each with the generation's number.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = list(generations)

    async def admit(self) -> None:
        """Wait until all prompts were counted. Raises the first error, and ends them all then."""
        tasks = [asyncio.ensure_future(each.admit()) for each in self.generations]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncIterator[tuple[int, TokenOutput]]:
        if len(self.generations) == 1:
            async for output in self.generations[0]:
                yield 0, output
            return
        items: asyncio.Queue[_Item] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(_pump(number, each, items))
            for number, each in enumerate(self.generations)
        ]
        try:
            for _ in tasks:
                while (item := await items.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Abort what still runs."""
        for each in self.generations:
            await each.aclose()


async def _pump(number: int, generation: Generation, items: asyncio.Queue[_Item]) -> None:
    """All outputs into the queue, then None; or the error that ended them."""
    try:
        async for output in generation:
            items.put_nowait((number, output))
    except Exception as exc:
        items.put_nowait(exc)
    else:
        items.put_nowait(None)
