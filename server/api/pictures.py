"""The pictures of one request: found, counted, and prepared in worker threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread

from server.api.options import ApiOptions
from server.api.schema import ChatMessage, ImagePart, TextPart
from server.errors import ImageError
from server.images.limits import check_count
from server.images.prepare import prepare
from server.images.source import read_source
from server.messages import ImageInput, VisionFacts
from server.metrics import Metrics
from server.prompt import Part, Picture, Turn

_ROLES = {"developer": "system"}


@dataclass(slots=True, frozen=True)
class Source:
    """Where a picture comes from: the URL, and the request's field that holds it."""

    url: str
    param: str


def read_turns(messages: Sequence[ChatMessage]) -> tuple[list[Turn], list[Source]]:
    """The conversation for the template, and its pictures in order."""
    turns: list[Turn] = []
    sources: list[Source] = []
    for number, message in enumerate(messages):
        content: list[Part] = []
        for place, part in enumerate(message.pieces):
            if isinstance(part, TextPart):
                content.append(part.text)
            elif isinstance(part, ImagePart):
                where = f"messages[{number}].content[{place}]"
                _check_role(message, where)
                content.append(Picture(len(sources)))
                sources.append(Source(part.source, f"{where}.{part.field}"))
        turns.append(Turn(_ROLES.get(message.role, message.role), tuple(content)))
    return turns, sources


def _check_role(message: ChatMessage, where: str) -> None:
    if message.role == "assistant":
        raise ImageError("pictures belong into user and system messages", param=where)


class PictureReader:
    """Prepares pictures, a few at a time, each distinct one of a request once."""

    def __init__(self, options: ApiOptions, metrics: Metrics) -> None:
        self._options = options.images
        self._metrics = metrics
        self._limiter = CapacityLimiter(options.image_workers)

    async def read(
        self, sources: Sequence[Source], tower: VisionFacts | None
    ) -> tuple[ImageInput, ...]:
        """The pictures in order. Raises ImageError, naming the field."""
        if not sources:
            return ()
        if tower is None:
            raise ImageError(
                "this model cannot see: no vision tower is loaded (--mmproj)",
                param=sources[0].param,
                code="vision_not_available",
            )
        limits = self._options.limits
        surplus = sources[min(limits.max_images, len(sources) - 1)]
        check_count(len(sources), limits, surplus.param)
        first = {source.url: source for source in reversed(sources)}
        tasks = {
            url: asyncio.ensure_future(self._prepare(source, tower))
            for url, source in first.items()
        }
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return tuple(tasks[source.url].result() for source in sources)

    async def _prepare(self, source: Source, tower: VisionFacts) -> ImageInput:
        return await to_thread.run_sync(
            self._timed, source.url, tower, source.param, limiter=self._limiter
        )

    def _timed(self, url: str, tower: VisionFacts, param: str) -> ImageInput:
        start = time.perf_counter()
        data = read_source(url, self._options.limits, param)
        picture = prepare(data, tower, self._options, param)
        self._metrics.decoded(time.perf_counter() - start)
        return picture
