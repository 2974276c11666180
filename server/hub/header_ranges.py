"""A file on the Hub, read in pieces: its header without its weights."""

from __future__ import annotations

import time
from typing import Final

import httpx2
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from server.errors import StartupError
from server.hub.download import is_passing, open_range, span_of, split_revision
from server.sizes import MIB

_FIRST: Final = MIB // 8
_MOST_AHEAD: Final = MIB // 4
# Passing over less than this is reading on.
_NEAR: Final = MIB
# No header is longer: the vocabulary of 256,000 pieces with its merges takes 16 MB.
_LIMIT: Final = 64 * MIB
# Seconds between tries.
_PAUSES: Final = (1, 2, 4)


class HubSource:
    """The bytes of a file on the Hub, fetched by ranges as they are asked for.

    Reading on in a row fetches ever larger pieces; what is passed over is not fetched.
    ``fetched`` counts the bytes that came.

    Raises:
        StartupError: the server does not serve ranges, or the header has no end.
    """

    def __init__(self, repo: str, file: str) -> None:
        name, revision = split_revision(repo)
        self._url = hf_hub_url(name, file, revision=revision)
        self._name = f"{name}/{file}"
        self._start = 0
        self._piece = b""
        self._ahead = _FIRST
        self._size = 0
        self.fetched = 0
        self._fetch(0, _FIRST)

    @property
    def size(self) -> int:
        """Bytes of the whole file, as the server says."""
        return self._size

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on."""
        first = start - self._start
        if first < 0 or first + count > len(self._piece):
            self._move(start, count)
            first = start - self._start
        return self._piece[first : first + count]

    def _move(self, start: int, count: int) -> None:
        end = self._start + len(self._piece)
        kept = self._piece[start - self._start :] if self._start <= start <= end else b""
        if not self._start <= start <= end + _NEAR:
            self._ahead = _FIRST
        wanted = max(count - len(kept), self._ahead)
        self._fetch(start + len(kept), wanted)
        self._piece = kept + self._piece
        self._start = start
        self._ahead = min(self._ahead * 2, _MOST_AHEAD)

    def _fetch(self, start: int, count: int) -> None:
        if self.fetched + count > _LIMIT:
            raise StartupError(f"{self._name}: its header is longer than {_LIMIT // MIB} MiB")
        last = start + count - 1
        if self._size:
            last = min(last, self._size - 1)
        piece = self._try(start, last)
        self._piece = piece[: last - start + 1]
        self._start = start
        self.fetched += len(piece)
        if len(self._piece) < min(count, self._size - start):
            raise StartupError(f"{self._name}: the hub broke off in the middle of its header")

    def _try(self, start: int, last: int) -> bytes:
        for seconds in (*_PAUSES, 0):
            try:
                return self._once(start, last)
            except (httpx2.TransportError, HfHubHTTPError) as error:
                if not seconds or not is_passing(error):
                    raise
                time.sleep(seconds)
        raise AssertionError

    def _once(self, start: int, last: int) -> bytes:
        with open_range(self._url, start, last) as response:
            span = span_of(response)
            if response.status_code != 206 or span is None:
                raise StartupError(f"{self._name}: the hub does not serve parts of files")
            self._size = self._size or span[2]
            piece = bytearray()
            for block in response.iter_bytes():
                piece += block
                if len(piece) > last - start:
                    break  # whatever else it may send
        return bytes(piece)
