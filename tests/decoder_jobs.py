"""What the tests ask decoders to do: the good, and what exceeds each limit. Runs in a decoder."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from server.decoders.work import Decoded
from server.errors import ImageError


def mirror(data: bytes, *arguments: Any) -> Decoded:
    """Gives the bytes back, and the process's id."""
    return Decoded({"pid": os.getpid(), "arguments": list(arguments)}, (data, data[::-1]))


def refuse(_: bytes) -> Decoded:
    """As a damaged file is refused."""
    raise ImageError("It is damaged.", code="damaged")


def fail(_: bytes) -> Decoded:
    """A fault of ours."""
    raise KeyError("a fault")


def work(data: bytes, seconds: float = 60.0) -> Decoded:
    """Takes processor time, holding Python's lock."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return mirror(data)


def sleep(data: bytes, seconds: float = 60.0) -> Decoded:
    """Takes time alone."""
    time.sleep(seconds)
    return mirror(data)


def grow(_: bytes) -> Decoded:
    """Takes memory without end."""
    pieces = []
    while True:
        pieces.append(bytearray(16 * 1024**2))


def crash(_: bytes) -> Decoded:
    """As a codec with a wild pointer."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def vanish(_: bytes) -> Decoded:
    """As if the system had killed it for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def try_to_leave(_: bytes) -> Decoded:
    """What a hostile file's code could reach; each attempt and what came of it."""
    attempts = {
        "file": lambda: Path("/etc/passwd").read_bytes(),
        "write": lambda: Path("/tmp/from-a-decoder").write_bytes(b"x"),
        "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "descriptors": lambda: [os.fstat(number) for number in range(5, 64)],
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            found[name] = type(error).__name__
        else:
            found[name] = "done"
    secrets = [name for name in os.environ if "KEY" in name or name.startswith("LLAVA")]
    return Decoded({"found": found, "folder": str(Path.cwd()), "secrets": secrets})
