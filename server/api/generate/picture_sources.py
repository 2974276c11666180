"""The bytes of a picture, whichever way it comes: data:, http(s):, file:, or an upload's id."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from anyio import CapacityLimiter

from server.api.generate.upload_store import FileStore
from server.api.http.record import stage
from server.api.options import ApiOptions
from server.errors import ImageError, NotFoundError
from server.images.data_url import read_source
from server.images.fetch import Fetcher
from server.images.local_file import read_file
from server.images.options import source_digest
from server.metrics import Metrics

_WEB: Final = re.compile(r"https?:", re.IGNORECASE)
_FILE: Final = re.compile(r"file:", re.IGNORECASE)
_DATA: Final = re.compile(r"data:", re.IGNORECASE)
_UPLOAD: Final = re.compile(r"file-[A-Za-z0-9_-]{1,100}")
# What is longer can only be a data: URL. Nothing looks at all of such a text on the event loop.
_LONGEST: Final = 8192
_HEAD: Final = 256

# A data: URL of so many characters is decoded and hashed in less than half a millisecond.
_SHORT: Final = 512 * 1024


@dataclass(slots=True, frozen=True)
class Load:
    """A picture's file, to be read in a thread, or at once where that is ``quick``."""

    data: Callable[[], bytes]
    quick: bool = False

    def read(self) -> tuple[bytes, bytes]:
        """The file and its digest. Raises ImageError if it cannot be read."""
        data = self.data()
        return data, source_digest(data)


class SourceReader:
    """Opens pictures' sources."""

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
    async def open(self, url: str, param: str | None) -> AsyncIterator[Load]:
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
                yield Load(lambda: data)
        elif upload := _UPLOAD.fullmatch(url):
            content = self._upload(upload[0], param)
            yield Load(lambda: content, len(content) <= _SHORT)
        elif self._root is not None and _FILE.match(url):
            async with self._open_files:
                yield Load(partial(read_file, url, self._root, self._limits, param))
        else:
            yield Load(partial(read_source, url, self._limits, param), len(url) <= _SHORT)

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
