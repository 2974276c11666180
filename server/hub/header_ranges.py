"""A file on the Hub, read in pieces: its header without its weights."""

from __future__ import annotations

import re
from typing import Final

from huggingface_hub import hf_hub_url
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status, http_stream_backoff

from server.errors import StartupError

_SPAN: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")
_FIRST: Final = 128 * 1024
_MOST_AHEAD: Final = 256 * 1024
# Passing over less than this is reading on.
_NEAR: Final = 1024 * 1024
# No header is longer: the vocabulary of 256,000 pieces with its merges takes 16 MB.
_LIMIT: Final = 64 * 1024 * 1024


class HubSource:
    """The bytes of a file on the Hub, fetched by ranges as they are asked for.

    Reading on in a row fetches ever larger pieces; what is passed over is not fetched.
    ``fetched`` counts the bytes that came.

    Raises:
        StartupError: the server does not serve ranges, or the header has no end.
    """

    def __init__(self, repo: str, file: str) -> None:
        self._url = hf_hub_url(repo, file)
        self._name = f"{repo}/{file}"
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
            raise StartupError(f"{self._name}: its header is longer than {_LIMIT >> 20} MiB")
        last = start + count - 1
        if self._size:
            last = min(last, self._size - 1)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{last}"}
        headers["Accept-Encoding"] = "identity"
        with http_stream_backoff("GET", self._url, headers=headers, timeout=30) as response:
            hf_raise_for_status(response)
            span = _SPAN.match(response.headers.get("Content-Range", ""))
            if response.status_code != 206 or span is None or int(span[1]) != start:
                raise StartupError(f"{self._name}: the hub does not serve parts of files")
            self._size = self._size or int(span[3])
            piece = bytearray()
            for block in response.iter_bytes():
                piece += block
                if len(piece) > last - start:
                    break  # whatever else it may send
        self._piece = bytes(piece[: last - start + 1])
        self._start = start
        self.fetched += len(piece)
        if len(self._piece) < min(count, self._size - start):
            raise StartupError(f"{self._name}: the hub broke off in the middle of its header")
