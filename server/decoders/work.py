"""What crosses between the web process and its decoders."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

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


class Piece(Protocol):
    """Bytes that write themselves into the shared memory, so that nothing else has to hold them."""

    def __len__(self) -> int:
        """How many they are."""

    def write(self, file: SharedFile) -> None:
        """Writes them where the file stands. A head may come before them, nothing after them."""


class SharedFile:
    """The shared memory as a file that is written. Unlike Python's, it asks the system nothing."""

    def __init__(self, descriptor: int) -> None:
        """Stands at the beginning."""
        self._descriptor = descriptor
        os.lseek(descriptor, 0, os.SEEK_SET)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._descriptor

    def tell(self) -> int:
        """Where it stands."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def write(self, data: bytes) -> int:
        """All of the data. Raises OSError where the system or the limit has no room for it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""


@dataclass(slots=True, frozen=True)
class Result:
    """What a decoder's function returns: what JSON can hold, and large pieces of bytes."""

    fields: dict[str, Any]
    pieces: tuple[bytes | Piece, ...] = ()


@dataclass(slots=True, frozen=True)
class Decoded:
    """A ``Result`` as it arrives in the web process.

    The process that it comes from may be under a client's control by then, so that no pickle is
    read from it. Who takes the result checks it.
    """

    fields: dict[str, Any]
    buffers: tuple[bytes | memoryview, ...] = ()


class Job(NamedTuple):
    """``function`` is ``module:name``; it is called with the file's bytes and ``arguments``, which
    are pickled by themselves: most jobs have the same, and dataclasses are slow to pickle.

    A result of more than ``most_copied`` bytes stays in the memory that it was written to: the web
    process takes that, and the next job brings the decoder another one.
    """

    function: str
    n_bytes: int
    arguments: bytes
    cpu_seconds: float
    most_copied: int


def frame(payload: bytes) -> bytes:
    """The payload behind its length."""
    return _SIZE.pack(len(payload)) + payload


def frame_size(head: bytes | bytearray) -> int:
    """How long the payload behind ``head`` is; ``head`` has ``HEAD`` bytes."""
    size: int = _SIZE.unpack(head)[0]
    return size


HEAD: Final = _SIZE.size


def receive_frame(line: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next payload on a blocking line and the descriptors before it, None at the line's end."""
    head, descriptors, _, _ = socket.recv_fds(line, HEAD, 1)
    rest = _receive(line, HEAD - len(head)) if head else None
    payload = None if rest is None else _receive(line, frame_size(head + rest))
    return None if payload is None else (payload, descriptors)


def _receive(line: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
