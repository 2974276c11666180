"""What the tests ask decoders to do: the good, and what exceeds each limit. Runs in a decoder."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.decoders.work import Result
from server.errors import ImageError

_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


def _map(descriptor: int, size: int) -> None:
    """Maps it to be written and read; Python's own mmap needs a descriptor more."""
    flags, access = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
    if _libc.mmap(None, ctypes.c_size_t(size), access, flags, descriptor, 0) == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap")


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
    attempts = {
        "write": lambda: os.pwrite(0, b"x", 0),
        "shrink": lambda: os.ftruncate(0, 0),
        "grow": lambda: os.ftruncate(0, 1 << 24),
        "map": lambda: _map(0, 1 << 20),
    }
    return Result({"found": {name: _outcome(attempt) for name, attempt in attempts.items()}})


def hold(data: bytes) -> Result:
    """Maps the memory of its result, so that it could change it afterwards."""
    _map(4, len(data))
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


def thread(data: bytes) -> Result:
    """A codec's thread."""
    answers: list[int] = []
    one = threading.Thread(target=lambda: answers.append(len(data)))
    one.start()
    one.join()
    return Result({"answers": answers})


def sleep(data: bytes, seconds: float = 60.0) -> Result:
    """Takes time alone."""
    time.sleep(seconds)
    return mirror(data)


def grow(_: bytes) -> Result:
    """Takes memory without end, so fast that it is not ended for its time."""
    pieces = []
    while True:
        pieces.append(bytes(16 * 1024**2))


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
    for number in range(3):
        os.close(number)  # the limit of descriptors is none to who closes one
    attempts = {
        "read": lambda: Path("/etc/passwd").read_bytes(),
        "write": lambda: Path("/tmp/from-a-decoder").write_bytes(b"x"),
        "list": lambda: list(Path("/").iterdir()),
        "remove": lambda: Path("/tmp/from-a-decoder").unlink(),
        "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "local": socket.socketpair,
        "memory": lambda: os.memfd_create("x"),
        "fork": lambda: os.fork() or os._exit(0),
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "signal": lambda: os.kill(1, 0),
        "make": Path("/tmp/from-a-decoder").mkdir,
        "priority": lambda: os.nice(-5),
        "look": lambda: Path("/etc/passwd").stat(),
        "move": lambda: os.chdir("/tmp"),
    }
    found = {name: _outcome(attempt) for name, attempt in attempts.items()}
    secrets = [name for name in os.environ if "KEY" in name or name.startswith("LLAVA")]
    return Result({"found": found, "secrets": secrets})
