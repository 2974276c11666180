"""The pictures of one request: found, counted, fetched, and prepared in worker threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anyio import CapacityLimiter, to_thread

from server.api.options import ApiOptions
from server.api.sources import Load, SourceReader
from server.api.stages import stage
from server.errors import ImageError
from server.images.inspection import Inspection, inspect
from server.images.limits import check_count
from server.images.prepare import Detail, decode_for, fit
from server.messages import ImageInput, VisionFacts
from server.metrics import Metrics


@dataclass(slots=True, frozen=True)
class Source:
    """Where a picture comes from: the URL, the request's field that holds it, and how much of
    it is to be seen; None leaves that to the operator, as "auto" does.
    """

    url: str
    param: str
    detail: Detail | None = None


class PictureReader:
    """Prepares pictures, a few at a time, each distinct one of a request once."""

    def __init__(self, options: ApiOptions, sources: SourceReader, metrics: Metrics) -> None:
        self._options = options.images
        self._sources = sources
        self._metrics = metrics
        self._limiter = CapacityLimiter(options.image_workers)

    async def read(
        self, sources: Sequence[Source], tower: VisionFacts | None
    ) -> tuple[ImageInput, ...]:
        """The pictures in order. Raises ImageError, naming the field."""
        if not sources:
            return ()
        tower = self.require_tower(tower, sources[0].param)
        limits = self._options.limits
        surplus = sources[min(limits.max_images, len(sources) - 1)]
        check_count(len(sources), limits, surplus.param)
        first = {(source.url, source.detail): source for source in reversed(sources)}
        tasks = {
            key: asyncio.ensure_future(self._prepare(source, tower))
            for key, source in first.items()
        }
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return tuple(tasks[source.url, source.detail].result() for source in sources)

    async def _prepare(self, source: Source, tower: VisionFacts) -> ImageInput:
        async with self._sources.open(source.url, source.param) as load:
            return await to_thread.run_sync(self._timed, load, tower, source, limiter=self._limiter)

    def _timed(self, load: Load, tower: VisionFacts, source: Source) -> ImageInput:
        start = time.monotonic()
        options, metrics = self._options, self._metrics.pictures
        if source.detail in ("low", "high"):
            options = replace(options, detail=source.detail)
        with stage(metrics, "decode"):
            data = load()
            decoded = decode_for(data, tower, options, source.param)
        with stage(metrics, "resize"):
            picture = fit(decoded, data, tower, options, source.param)
        return replace(picture, decode_seconds=time.monotonic() - start)

    async def inspect(self, source: str | bytes, tower: VisionFacts, param: str) -> Inspection:
        """What a picture is and becomes; ``source`` is a URL or the file itself."""
        if isinstance(source, bytes):
            return await self._inspect(lambda: source, tower, param)
        async with self._sources.open(source, param) as load:
            return await self._inspect(load, tower, param)

    async def _inspect(self, load: Load, tower: VisionFacts, param: str) -> Inspection:
        return await to_thread.run_sync(
            lambda: inspect(load(), tower, self._options, param), limiter=self._limiter
        )

    @staticmethod
    def require_tower(tower: VisionFacts | None, param: str) -> VisionFacts:
        """The tower. Raises ImageError if the model has none."""
        if tower is None:
            raise ImageError(
                "this model cannot see: no vision tower is loaded (--mmproj)",
                param=param,
                code="vision_not_available",
            )
        return tower
