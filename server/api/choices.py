"""Choices: several answers to one prompt, side by side.

Each is a request of its own to the engine, which computes the prompt once: later ones wait for
the first one's prefill and share its cells, as any two requests that begin alike do. So a choice
is aborted, preempted and resumed by itself, and nothing in the engine knows of ``n``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from server.api.answer import Answer, Step, admitted, prepare
from server.api.dialog import Dialog
from server.api.image_report import ImageReport
from server.api.services import Services
from server.messages import EngineReady, RequestTimings
from server.sampling import SamplingParams

# llama.cpp's seeds have 32 bits, and the highest one means "choose one".
_SEEDS = 2**32 - 1


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
                replace(prepared, sampling=seeded(prepared.sampling, index)),
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
        self._tasks: list[asyncio.Task[None]] = []

    async def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        """Pairs of a choice's index and what is new of it. Raises what any of them raises."""
        if len(self.answers) == 1:
            async for step in self.answers[0]:
                yield 0, step
            return
        steps: asyncio.Queue[tuple[int, Step | Exception | None]] = asyncio.Queue()

        async def pump(index: int, answer: Answer) -> None:
            try:
                async for step in answer:
                    steps.put_nowait((index, step))
                steps.put_nowait((index, None))
            except Exception as error:
                steps.put_nowait((index, error))

        self._tasks = [asyncio.create_task(pump(*pair)) for pair in enumerate(self.answers)]
        running = len(self.answers)
        while running:
            index, new = await steps.get()
            if isinstance(new, Exception):
                raise new
            if new is None:
                running -= 1
            else:
                yield index, new

    async def aclose(self) -> None:
        """Abort what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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


def seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """The parameters of choice ``index``: where the request has a seed, each has another one."""
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % _SEEDS)
