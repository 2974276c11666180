"""One engine process and the line to it."""

from __future__ import annotations

import asyncio
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from server.messages import EngineConfig, Shutdown

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


class EngineProcess:
    """Starts, feeds and ends one engine process; what is written to it has a thread of its own."""

    def __init__(self, config: EngineConfig) -> None:
        """Starts the process; what it sends waits until ``deliver`` is called.

        Raises OSError or RuntimeError where the system has no more memory, files or threads.
        """
        self.config = config
        line, theirs = Pipe()
        self._line: Connection[Any, Any] = line
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            self.popen = _start(theirs.fileno(), config)
        except OSError:
            line.close()
            raise
        finally:
            theirs.close()
        self.send(config)
        try:
            threading.Thread(target=self._write, name="engine-line", daemon=True).start()
        except RuntimeError:  # no more threads; without a line it ends by itself, or now
            line.close()
            self.popen.kill()
            self.popen.wait()
            raise

    def deliver(self, receive: Callable[[EngineProcess, Any], None]) -> None:
        """Calls ``receive(process, message)`` on the running loop, for all that the engine sends.

        A message of None says that the line has closed: the process is gone.
        """
        LineReader(self._line, partial(receive, self)).start(asyncio.get_running_loop())

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped the process, where the system reports it."""
        try:
            stat = Path(f"/proc/{self.popen.pid}/stat").read_text()
        except OSError:
            return False
        # pid (name) state ...; the name may hold anything.
        return stat.rpartition(")")[2].split()[0] in {"T", "t"}

    def send(self, message: object) -> None:
        """Queues a message; returns at once."""
        self._outbox.put(message)

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._line.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def stop(self, patience: float) -> int:
        """Asks the process to end, kills it after ``patience`` seconds; returns its exit code."""
        self.send(Shutdown())
        try:
            code = self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            code = self.popen.wait()
        self.send(None)
        return code


def _start(descriptor: int, config: EngineConfig) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 (our own module, no shell)
        [sys.executable, "-m", "server.engine", str(descriptor)],
        pass_fds=[descriptor],
        env=environment(config.threads),
        start_new_session=True,  # Ctrl-C is the web process's to handle
    )


def environment(threads: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **openmp(threads),
        # glibc raises its own threshold with the first large block that is freed, and then keeps
        # pictures' embeddings on its heap, where they leave holes: the process grows by some of
        # them. Above this size blocks go back to the system; a token's logits are smaller.
        "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",  # a folder named "server" where we were started is not ours
    }


def openmp(threads: int) -> dict[str, str]:
    """How llama.cpp's threads wait for each other; docs/engine-notes.md has the measurements.

    They meet at hundreds of barriers a token. Free to move, two of them often end up on one core
    as soon as anything else runs, and spin there in vain: a token took up to 40 times as long.
    So where they are to use all cores, each is bound to its own. With fewer threads than cores
    they are not: a second server's would be bound to the same ones.
    """
    spin = {"GOMP_SPINCOUNT": "10000"}
    usable = getattr(os, "sched_getaffinity", None)
    all_cores = usable is not None and threads >= len(usable(0))
    return {**spin, "OMP_PROC_BIND": "true"} if all_cores else spin
