"""Choices: several answers to one prompt or to some, side by side.

Each is a request of its own to the engine, which computes the prompt once: later ones wait for
the first one's prefill and share its cells, as any two requests that begin alike do. So a choice
is aborted, preempted and resumed by itself, and nothing in the engine knows of ``n``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from server.api.generate.answer import Answer, Delta
from server.api.generate.dialog import Prepared
from server.api.generate.services import Services
from server.api.http.record import ImageReport, pictures_of
from server.messages import RequestTimings

T = TypeVar("T")
# Items that lie unread before the streams have to wait: a reader that stops holds no more.
MOST_UNREAD = 32


async def begin(
    services: Services, prepared: Prepared, *, request_id: str, arrival: float
) -> Answer:
    """Start to answer; returns once the prompt was counted and fits.

    Raises RequestError, naming the field, or EngineUnavailable.
    """
    answer = _answer(services, prepared, request_id, arrival)
    await answer.admit()
    return answer


async def begin_choices(
    services: Services, prompts: Sequence[Prepared], n: int, *, request_id: str, arrival: float
) -> Choices:
    """Start ``n`` answers to each prompt; returns once all of them are admitted.

    Raises RequestError, naming the field, or EngineUnavailable.
    """
    if n == len(prompts) == 1:
        return Choices([await begin(services, prompts[0], request_id=request_id, arrival=arrival)])
    asked = [(prompt, choice) for prompt in prompts for choice in range(n)]
    answers = [
        _answer(
            services,
            replace(prompt, sampling=prompt.sampling.of_choice(choice)),
            f"{request_id}-{index}" if index else request_id,
            arrival,
            index=index,
            first=not choice,
        )
        for index, (prompt, choice) in enumerate(asked)
    ]
    admitting = [asyncio.ensure_future(answer.admit()) for answer in answers]
    try:
        await asyncio.gather(*admitting)
    except BaseException:
        for task in admitting:
            task.cancel()
        await asyncio.gather(*admitting, return_exceptions=True)
        for answer in answers:
            await answer.aclose()
        raise
    return Choices(answers)


def _answer(
    services: Services,
    prepared: Prepared,
    request_id: str,
    arrival: float,
    *,
    index: int = 0,
    first: bool = True,
) -> Answer:
    parts = prepared.parts
    return Answer(
        prepared.model.engine.generate(parts, prepared.sampling, request_id),
        services.metrics,
        arrival,
        pictures_of(parts),
        style=prepared.style,
        thought=prepared.thought,
        index=index,
        first=first,
    )


class Choices:
    """The answers in order, and what they took together. There is at least one.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = answers
        self._merged = Merged(answers)

    def __aiter__(self) -> AsyncIterator[Delta]:
        """What is new of any of them, as it comes. Raises what any of them raises."""
        return self._merged.__aiter__()

    async def aclose(self) -> None:
        """Abort what still runs."""
        await self._merged.aclose()
        for answer in self.answers:
            await answer.aclose()

    @property
    def prompt_tokens(self) -> int:
        """The prompts' tokens, each prompt once."""
        return sum(answer.prompt_tokens for answer in self.answers if answer.first)

    @property
    def image_tokens(self) -> int:
        """Those of them that are pictures."""
        return sum(answer.image_tokens for answer in self.answers if answer.first)

    @property
    def cached_tokens(self) -> int:
        """Those of them that were there when the first choice began."""
        return sum(answer.cached_tokens for answer in self.answers if answer.first)

    @property
    def completion_tokens(self) -> int:
        """The tokens of all choices."""
        return sum(answer.completion_tokens for answer in self.answers)

    @property
    def reasoning_tokens(self) -> int:
        """Those of them that belong to thoughts."""
        return sum(answer.reasoning_tokens for answer in self.answers)

    @property
    def images(self) -> tuple[ImageReport, ...]:
        """What became of the pictures."""
        return tuple(report for answer in self.answers for report in answer.images)

    @property
    def timings(self) -> RequestTimings | None:
        """From when the first of them began to when the last one ended."""
        times = [answer.timings for answer in self.answers if answer.timings is not None]
        if len(times) < len(self.answers) or not all(each.finished for each in times):
            return None
        last = max(times, key=lambda each: each.finished)
        return replace(times[0], finished=last.finished, peaks=last.peaks)


class Merged(Generic[T]):
    """What the streams bring, as it comes.

    ``aclose`` must be awaited however it ends, before the streams themselves are closed.
    """

    def __init__(self, streams: Sequence[AsyncIterable[T]]) -> None:
        self._streams = streams
        self._tasks: list[asyncio.Task[None]] = []

    def __aiter__(self) -> AsyncIterator[T]:
        """Ends with the last of them. Raises what any of them raises."""
        return self._streams[0].__aiter__() if len(self._streams) == 1 else self._read_all()

    async def _read_all(self) -> AsyncIterator[T]:
        items: asyncio.Queue[T | Exception | None] = asyncio.Queue(MOST_UNREAD)
        self._tasks = [asyncio.create_task(_pump(stream, items)) for stream in self._streams]
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


async def _pump(stream: AsyncIterable[T], items: asyncio.Queue[T | Exception | None]) -> None:
    """All of a stream into the queue, then None; or the error that ended it."""
    try:
        async for item in stream:
            await items.put(item)
    except Exception as error:
        await items.put(error)
    else:
        await items.put(None)
