"""The pictures of one request: found, counted, fetched, and prepared by decoder processes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Generic, TypeVar, get_args
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, to_thread

from server.api.generate.upload_store import FileStore
from server.api.http.record import failing, spared, stage, stages_took
from server.api.middleware.admission import visiting
from server.api.options import ApiOptions
from server.decoders.pool import DecoderPool, Done, Work
from server.errors import ImageError, NotFoundError, RequestError
from server.images.data_url import read_source
from server.images.fetch import Fetcher
from server.images.local_file import read_file
from server.images.options import Detail, check_bytes, check_count, image_digest, source_digest
from server.images.prepared import (
    INSPECT,
    PREPARE,
    Inspection,
    PictureKey,
    PreparedCache,
    size_of,
    unpack,
    unpack_inspection,
)
from server.messages import ImageInput, VisionFacts
from server.metrics import Metrics
from server.usage import account

_WEB: Final = re.compile(r"https?:", re.IGNORECASE)
_FILE: Final = re.compile(r"file:", re.IGNORECASE)
_DATA: Final = re.compile(r"data:", re.IGNORECASE)
_UPLOAD: Final = re.compile(r"file-[A-Za-z0-9_-]{1,100}")
# What is longer can only be a data: URL. Nothing looks at all of such a text on the event loop.
_LONGEST: Final = 8192
_HEAD: Final = 256
# A data: URL of so many characters is decoded and hashed in less than half a millisecond.
_SHORT: Final = 512 * 1024
# Comparing texts takes time, and this would be on the event loop.
_LONG: Final = 64 * 1024
_READERS: Final = 2

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class PictureSource:
    """Where a picture comes from: the URL, the request's field that holds it, and how much of
    it is to be seen; None leaves that to the operator, as "auto" does.
    """

    url: str
    param: str
    detail: Detail | None = None


@dataclass(slots=True, frozen=True)
class PictureFile:
    """A picture's file, to be read in a thread, or at once where that is ``quick``."""

    data: Callable[[], bytes]
    quick: bool = False

    def read(self) -> tuple[bytes, bytes]:
        """The file and its digest. Raises ImageError if it cannot be read."""
        data = self.data()
        return data, source_digest(data)


class SourceReader:
    """Reads a picture's bytes, whichever way they come: data:, http(s):, file:, or an upload."""

    def __init__(self, options: ApiOptions, files: FileStore, metrics: Metrics) -> None:
        self._metrics = metrics.pictures
        self._limits = options.images.limits
        self._root = options.image_root
        self._files = files
        self._fetches = options.fetch.enabled
        self._fetcher = Fetcher(options.fetch, self._limits)
        self._slots = CapacityLimiter(options.fetch.at_once)
        self._open_files = CapacityLimiter(options.fetch.at_once)
        self._most_per_host = max(1, options.fetch.at_once // 4)
        self._hosts: WeakValueDictionary[str, CapacityLimiter] = WeakValueDictionary()

    @asynccontextmanager
    async def open(self, url: str, param: str | None) -> AsyncIterator[PictureFile]:
        """What to read in a thread. Raises ImageError, here or there.

        A slow host is waited for here, where it takes no thread from other pictures, and no more
        than a quarter of the slots from other hosts. The slot is held until the picture is done
        with, which bounds the memory that fetched files and those from disk take.
        """
        url = _trimmed(url, param)
        if self._fetches and _WEB.match(url):
            async with self._host(url), self._slots:
                with stage(self._metrics, "fetch"):
                    data = await self._fetcher.fetch(url, param)
                yield PictureFile(lambda: data)
        elif upload := _UPLOAD.fullmatch(url):
            content = self._upload(upload[0], param)
            yield PictureFile(lambda: content, len(content) <= _SHORT)
        elif self._root is not None and _FILE.match(url):
            async with self._open_files:
                yield PictureFile(partial(read_file, url, self._root, self._limits, param))
        else:
            yield PictureFile(partial(read_source, url, self._limits, param), len(url) <= _SHORT)

    def _host(self, url: str) -> CapacityLimiter:
        name = url.partition("//")[2].partition("/")[0].lower()
        limiter = self._hosts.get(name)
        if limiter is None:
            limiter = self._hosts[name] = CapacityLimiter(self._most_per_host)
        return limiter

    def _upload(self, file_id: str, param: str | None) -> bytes:
        try:
            return self._files.get(file_id).content
        except NotFoundError as exc:
            raise ImageError(exc.message, param=param, code=exc.code) from exc


def _trimmed(url: str, param: str | None) -> str:
    """The URL without white space around it; a long one as it is, for no more than its head is
    looked at. Raises ImageError if that is the head of no ``data:`` URL.
    """
    if len(url) <= _LONGEST:
        return url.strip()
    if _DATA.match(url[:_HEAD].lstrip()):
        return url
    raise ImageError(
        f"The picture's URL has {len(url):,} characters, and only data: URLs may have more than"
        f" {_LONGEST:,}; if it is base64, write data:image/png;base64, before it.",
        param=param,
        code="unsupported_image_url",
    )


@dataclass(slots=True)
class _Work(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class SharedWork(Generic[K, T]):
    """Work under way, by its key. Lives on one event loop.

    By hand: async-lru ties work under way to a cache of a function's results. Here results are kept
    elsewhere, bounded by their bytes, and the work ends with the last caller that waits for it.
    """

    def __init__(self) -> None:
        self._under_way: dict[K, _Work[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._under_way

    async def of(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the work that is under way for ``key``, or else of a new ``start()``.

        It belongs to all who wait for it: a caller that leaves, even the first, leaves it to the
        others, and the last one to leave cancels it. Raises what it raises, to each of them.
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
                # At once, so that no caller joins what is being cancelled.
                self._forget(key, work)
                work.task.cancel()

    def _forget(self, key: K, work: _Work[T]) -> None:
        if self._under_way.get(key) is work:
            del self._under_way[key]
        if work.task.done() and not work.task.cancelled():
            work.task.exception()  # there may be no caller left to raise it to


class PictureReader:
    """Prepares pictures, a few at a time, and each of them once while it is kept.

    A picture is known again by the SHA-256 of its file, whichever client sent it. What several
    requests ask for at the same time is prepared once for all of them.
    """

    def __init__(
        self,
        options: ApiOptions,
        sources: SourceReader,
        decoders: DecoderPool,
        metrics: Metrics,
    ) -> None:
        self._options = options.images
        self._detailed = {
            detail: replace(options.images, detail=detail) for detail in get_args(Detail)
        }
        self._sources = sources
        self._metrics = metrics.pictures
        self._decoders = decoders
        # Threads that read files and undo base64.
        self._readers = CapacityLimiter(_READERS)
        self._kept = PreparedCache(options.image_prepared_bytes)
        self._work: SharedWork[PictureKey, ImageInput] = SharedWork()

    async def read(
        self, sources: Sequence[PictureSource], tower: VisionFacts | None
    ) -> tuple[ImageInput, ...]:
        """The pictures in order. Raises ImageError, naming the field, or Overloaded."""
        if not sources:
            return ()
        tower = self.require_tower(tower, sources[0].param)
        limits = self._options.limits
        surplus = sources[min(limits.max_images, len(sources) - 1)]
        check_count(len(sources), limits, surplus.param)
        first = {_distinct(source): source for source in reversed(sources)}
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
        return tuple(
            replace(tasks[_distinct(source)].result(), param=source.param) for source in sources
        )

    async def _prepare(self, source: PictureSource, tower: VisionFacts) -> ImageInput:
        picture = await self._prepared(source, tower)
        _hold(picture)
        return picture

    async def _prepared(self, source: PictureSource, tower: VisionFacts) -> ImageInput:
        options = self._options
        if source.detail in ("low", "high"):
            options = self._detailed[source.detail]
        async with self._sources.open(source.url, source.param) as file:
            start = time.monotonic()
            data, digest = await self._read(file)
            key = PictureKey(digest, tower, options)
            kept = self._look_up(key)
            if kept is None and key not in self._work:
                return await self._work.of(key, lambda: self._make(key, data, source.param))
            if kept is None:
                kept = replace(await self._others(key, data, source.param), decode_seconds=0.0)
            spared(self._metrics, "decode", start)
            return kept

    async def _read(self, file: PictureFile) -> tuple[bytes, bytes]:
        """The file and its digest. Raises ImageError."""
        with failing(self._metrics, "decode"):
            if file.quick:
                return file.read()
            return await to_thread.run_sync(file.read, limiter=self._readers)

    def _look_up(self, key: PictureKey) -> ImageInput | None:
        kept = self._kept.get(key)
        self._metrics.prepared_queries.inc()
        if kept is not None or key in self._work:
            self._metrics.prepared_hits.inc()
        return kept

    async def _others(self, key: PictureKey, data: bytes, param: str) -> ImageInput:
        """The picture that another request is preparing; what is wrong with it, is with ours."""
        try:
            return await self._work.of(key, lambda: self._make(key, data, param))
        except ImageError as error:
            raise ImageError(error.message, param=param, code=error.code) from error

    async def _make(self, key: PictureKey, data: bytes, param: str) -> ImageInput:
        with failing(self._metrics, "decode"):
            done = await self._decode(PREPARE, data, key, param)
        fields = done.decoded.fields
        stages_took(self._metrics, decode=float(fields["decode"]), resize=float(fields["resize"]))
        picture = unpack(done.decoded, _digest(key), done.seconds)
        self._kept.put(key, picture)
        self._metrics.prepared_bytes.set(self._kept.n_bytes)
        return picture

    async def _decode(self, function: str, data: bytes, key: PictureKey, param: str) -> Done:
        check_bytes(len(data), self._options.limits, param)
        work = Work(function, data, key.source, (key.tower, key.options))
        try:
            return await self._decoders.run(work, account.get())
        except RequestError as error:
            raise ImageError(error.message, param=param, code=error.code) from error

    async def inspect(self, source: str | bytes, tower: VisionFacts, param: str) -> Inspection:
        """What a picture is and becomes; ``source`` is a URL or the file itself."""
        if isinstance(source, bytes):
            return await self._inspect(PictureFile(lambda: source), tower, param)
        async with self._sources.open(source, param) as file:
            return await self._inspect(file, tower, param)

    async def _inspect(self, file: PictureFile, tower: VisionFacts, param: str) -> Inspection:
        data, digest = await self._read(file)
        key = PictureKey(digest, tower, self._options)
        done = await self._decode(INSPECT, data, key, param)
        found = unpack_inspection(done.decoded, len(data), _digest(key), done.seconds)
        _hold(found.image)
        return found

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


def _digest(key: PictureKey) -> str:
    return image_digest(key.source, key.tower, key.options)


def _hold(picture: ImageInput) -> None:
    """Counts it to its request until that is over. Raises Overloaded."""
    if visitor := visiting.get():
        visitor.hold(size_of(picture))


def _distinct(source: PictureSource) -> tuple[str | int, Detail | None]:
    """What equal sources of one request have in common; long ones are compared by digest, later."""
    url = source.url
    return (url if len(url) <= _LONG else id(url)), source.detail
