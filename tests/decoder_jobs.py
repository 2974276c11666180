"""What the tests ask decoders to do: the good, and what exceeds each limit. Runs in a decoder."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.decoders.work import Result
from server.errors import ImageError

_held: list[mmap.mmap] = []


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"


def mirror(data: bytes, *arguments: Any) -> Result:
    """Gives the bytes back, and the process's id."""
    return Result({"pid": os.getpid(), "arguments": list(arguments)}, (data, data[::-1]))


def keep(data: bytes) -> Result:
    """Keeps a descriptor of the memory that the result is in."""
    os.dup2(4, 0)
    return Result({}, (data,))


def alter(_: bytes) -> Result:
    """Writes to what ``keep`` kept, in each way there is."""
    os.close(1)  # Python's mmap wants a free descriptor
    attempts = {
        "write": lambda: os.pwrite(0, b"x", 0),
        "shrink": lambda: os.ftruncate(0, 0),
        "grow": lambda: os.ftruncate(0, 1 << 24),
        "map": lambda: mmap.mmap(0, 1 << 20),
    }
    return Result({"found": {name: _outcome(attempt) for name, attempt in attempts.items()}})


def hold(data: bytes) -> Result:
    """Maps the memory of its result, so that it could change it afterwards."""
    os.close(1)
    _held.append(mmap.mmap(4, len(data)))
    return Result({}, (data,))


def refuse(_: bytes) -> Result:
    """As a damaged file is refused."""
    raise ImageError("It is damaged.", code="damaged")


def fail(_: bytes) -> Result:
    """A fault of ours."""
    raise KeyError("a fault")


def work(data: bytes, seconds: float = 60.0) -> Result:
    """Takes processor time, holding Python's lock."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return mirror(data)


def sleep(data: bytes, seconds: float = 60.0) -> Result:
    """Takes time alone."""
    time.sleep(seconds)
    return mirror(data)


def grow(_: bytes) -> Result:
    """Takes memory without end."""
    pieces = []
    while True:
        pieces.append(bytearray(16 * 1024**2))


def crash(_: bytes) -> Result:
    """As a codec with a wild pointer."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def vanish(_: bytes) -> Result:
    """As if the system had killed it for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def try_to_leave(_: bytes) -> Result:
    """What a hostile file's code could reach; each attempt and what came of it."""
    attempts = {
        "file": lambda: Path("/etc/passwd").read_bytes(),
        "write": lambda: Path("/tmp/from-a-decoder").write_bytes(b"x"),
        "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "descriptors": lambda: [os.fstat(number) for number in range(5, 64)],
    }
    found = {name: _outcome(attempt) for name, attempt in attempts.items()}
    secrets = [name for name in os.environ if "KEY" in name or name.startswith("LLAVA")]
    return Result({"found": found, "folder": str(Path.cwd()), "secrets": secrets})
