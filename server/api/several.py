"""Several: generations that run side by side and are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from server.api.generation import Generation
from server.api.merged import Merged
from server.messages import TokenOutput


class Several:
    """The outputs of some generations as they come, each with the generation's number.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = list(generations)
        self._merged = Merged(self.generations)

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

    def __aiter__(self) -> AsyncIterator[tuple[int, TokenOutput]]:
        return self._merged.__aiter__()

    async def aclose(self) -> None:
        """Abort what still runs."""
        await self._merged.aclose()
        for each in self.generations:
            await each.aclose()
