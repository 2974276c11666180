"""What the engine writes into the line, read by the event loop itself."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

_READ_BYTES = 256 * 1024
# How multiprocessing's connections mark where a message ends (Connection._send_bytes).
_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!Q")


class Frames:
    """Messages out of the bytes of a multiprocessing connection, however these are cut."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that ``data`` completes."""
        self._bytes += data
        while (found := self._end()) is not None:
            start, end = found
            message = pickle.loads(memoryview(self._bytes)[start:end])  # noqa: S301 (our own engine)
            del self._bytes[:end]
            yield message

    def _end(self) -> tuple[int, int] | None:
        """Where the first message begins and ends, if all of it is here."""
        start = _SHORT.size
        if len(self._bytes) < start:
            return None
        (size,) = _SHORT.unpack_from(self._bytes)
        if size == -1:
            start += _LONG.size
            if len(self._bytes) < start:
                return None
            (size,) = _LONG.unpack_from(self._bytes, _SHORT.size)
        end = start + size
        return (start, end) if len(self._bytes) >= end else None


class LineReader:
    """Reads a line on the loop: a thread in between would cost two more wake-ups a token."""

    def __init__(self, line: Connection[Any, Any], receive: Callable[[Any], None]) -> None:
        """``receive`` gets every message, and None when the line has closed."""
        self._line = line
        self._receive = receive
        self._frames = Frames()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """To be called on the loop."""
        self._loop = loop
        loop.add_reader(self._line.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._line.fileno(), _READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._line.fileno())
            self._receive(None)
            return
        for message in self._frames.feed(data):
            self._receive(message)
