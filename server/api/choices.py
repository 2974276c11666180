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
from server.api.merged import Merged
from server.api.services import Services
from server.messages import EngineReady, RequestTimings
from server.sampling import SamplingParams


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
