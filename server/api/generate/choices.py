"""Choices: several answers to one prompt, side by side.

Each is a request of its own to the engine, which computes the prompt once: later ones wait for
the first one's prefill and share its cells, as any two requests that begin alike do. So a choice
is aborted, preempted and resumed by itself, and nothing in the engine knows of ``n``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from server.api.generate.answer import Answer, Step, admitted, prepare
from server.api.generate.dialog import Dialog
from server.api.generate.generation import Generation
from server.api.generate.services import Services
from server.api.http.record import ImageReport
from server.messages import EngineReady, RequestTimings, TokenOutput
from server.messages.sampling import SamplingParams

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


async def begin_choices(
    services: Services,
    ready: EngineReady,
    dialog: Dialog,
    sampling: SamplingParams,
    n: int,
    *,
    request_id: str,
    arrival: float,
) -> Choices:
    """Start ``n`` answers; returns once all of them are admitted.

    Raises RequestError, naming the field, or EngineUnavailable.
    """
    prepared = await prepare(services, ready, dialog, sampling)
    begun = [
        asyncio.ensure_future(
            admitted(
                services,
                replace(prepared, sampling=prepared.sampling.of_choice(index)),
                request_id=f"{request_id}-{index}" if index else request_id,
                arrival=arrival,
                first=not index,
            )
        )
        for index in range(n)
    ]
    try:
        return Choices(await asyncio.gather(*begun))
    except BaseException:
        for task in begun:
            task.cancel()
        for result in await asyncio.gather(*begun, return_exceptions=True):
            if isinstance(result, Answer):
                await result.aclose()
        raise


class Choices:
    """The answers, in order, and what they took together. There is at least one.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = answers
        self._first = answers[0].generation
        self._merged = Merged(answers)

    def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        """Pairs of a choice's index and what is new of it. Raises what any of them raises."""
        return self._merged.__aiter__()

    async def aclose(self) -> None:
        """Abort what still runs."""
        await self._merged.aclose()
        for answer in self.answers:
            await answer.aclose()

    @property
    def prompt_tokens(self) -> int:
        """The prompt's tokens, once."""
        return self._first.prompt_tokens

    @property
    def image_tokens(self) -> int:
        """Those of them that are pictures."""
        return self._first.image_tokens

    @property
    def cached_tokens(self) -> int:
        """Those of them that were there when the first choice began."""
        return self._first.cached_tokens

    @property
    def completion_tokens(self) -> int:
        """The tokens of all choices."""
        return sum(answer.generation.completion_tokens for answer in self.answers)

    @property
    def images(self) -> tuple[ImageReport, ...]:
        """What became of the pictures."""
        return self._first.images

    @property
    def timings(self) -> RequestTimings | None:
        """From when the first of them began to when the last one ended."""
        times = [t for answer in self.answers if (t := answer.generation.timings) is not None]
        if len(times) < len(self.answers) or not all(t.finished for t in times):
            return None
        last = max(times, key=lambda t: t.finished)
        return replace(times[0], finished=last.finished, peaks=last.peaks)


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
