"""What crosses between the web process and its decoders."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

_SIZE: Final = struct.Struct("!I")


@dataclass(slots=True, frozen=True)
class DecoderLimits:
    """Limits of one decoder, and of one file that it decodes.

    ``memory_bytes`` is what the process may take beside what it has at its start. Of
    ``cpu_seconds`` the system ends the process by itself; ``wall_seconds`` is counted by the web
    process, which ends it. ``shared_bytes`` bounds the memory that both processes share.
    """

    memory_bytes: int = 2 * 1024**3
    cpu_seconds: float = 20.0
    wall_seconds: float = 120.0
    shared_bytes: int = 1024**3


@dataclass(slots=True, frozen=True)
class Decoded:
    """What a decoder's function returns: what JSON can hold, and large pieces of bytes.

    The process that it comes from may be under a client's control by then, so that no pickle is
    read from it. Who takes the result checks it.
    """

    fields: dict[str, Any]
    buffers: tuple[bytes, ...] = ()


@dataclass(slots=True, frozen=True)
class Job:
    """``function`` is ``module:name``; it is called with the file's bytes and ``arguments``."""

    function: str
    n_bytes: int
    arguments: tuple[Any, ...]
    cpu_seconds: float


def frame(payload: bytes) -> bytes:
    """The payload behind its length."""
    return _SIZE.pack(len(payload)) + payload


def receive_frame(line: socket.socket) -> bytes | None:
    """The next payload on a blocking line, None at its end."""
    head = _receive(line, _SIZE.size)
    return None if head is None else _receive(line, _SIZE.unpack(head)[0])


def frame_size(head: bytes) -> int:
    """How long the payload behind ``head`` is; ``head`` has ``HEAD`` bytes."""
    size: int = _SIZE.unpack(head)[0]
    return size


HEAD: Final = _SIZE.size


def _receive(line: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def read_shared(memory: int, size: int, offset: int = 0) -> bytes:
    """Bytes out of the shared memory: one copy, from page to page."""
    data = os.pread(memory, size, offset)
    while len(data) < size:  # more than 2 GiB at once, or a signal
        piece = os.pread(memory, size - len(data), offset + len(data))
        if not piece:
            raise EOFError("the shared memory is shorter than was said")
        data += piece
    return data


def write_shared(memory: int, data: bytes, offset: int = 0) -> None:
    """Bytes into the shared memory, which grows as far as they need it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(memory, view, offset)
        view, offset = view[written:], offset + written
