"""The web process's side of the nursery and of each decoder."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil
from anyio import to_thread

from server.decoders.work import (
    HEAD,
    Decoded,
    DecoderLimits,
    Job,
    frame,
    frame_size,
    read_shared,
    write_shared,
)
from server.errors import EngineError

# What is copied on the event loop: 0.1 ms; a thread costs as much.
_AT_ONCE: Final = 512 * 1024
# Shared memory beyond this goes back to the system after each file.
_KEPT: Final = 8 * 1024**2
# Nothing else of the environment is a codec's business, API keys least of all.
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_", "TZ", "LD_LIBRARY", "DYLD_", "PYTHON", "COV")
_LONGEST_REPLY: Final = 1024 * 1024
_PIECE: Final = 64 * 1024
_PATIENCE: Final = 2.0
# A third of the share that others have: enough to end within the wall time beside a busy engine.
_NICE: Final = 5
_NURSERY: Final = "server.decoders.nursery"


class DecoderLost(Exception):  # noqa: N818 (how a process ended, which may be as it should)
    """The decoder ended before it replied."""


@dataclass(slots=True, frozen=True)
class Reply:
    """A decoder's reply as it came: ``fields`` and ``sizes``, or why there are none."""

    content: dict[str, Any]
    decoded: Decoded | None


class Decoder:
    """One decoder process, its line and the memory that it shares. Does one job at a time."""

    def __init__(self, pid: int, line: socket.socket, memory: int) -> None:
        self.pid = pid
        self._line = line
        self._memory = memory
        self._cpu_before = 0.0
        # A decoder ends when its line closes, so that none outlives the pool that forgot it.
        self.close = weakref.finalize(self, _close, line, memory)

    @property
    def waits(self) -> bool:
        """Whether it is there and has nothing to say, as one without a job should."""
        return not select.select([self._line], [], [], 0)[0]

    def cpu_seconds(self) -> float:
        """Processor time of the job that it has; 0 where that cannot be known."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system) - self._cpu_before

    def be_nice(self) -> None:
        """Lets everything else on this machine go first, for the rest of its life."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, _NICE)

    async def do(
        self, function: str, data: bytes, arguments: tuple[Any, ...], cpu_seconds: float
    ) -> Reply:
        """What ``function`` made of ``data``. Raises DecoderLost."""
        loop, job = asyncio.get_running_loop(), Job(function, len(data), arguments, cpu_seconds)
        await _copy(len(data), write_shared, self._memory, data)
        try:
            await loop.sock_sendall(self._line, frame(pickle.dumps(job)))
            content = json.loads(await self._receive())
            self._cpu_before = float(content["cpu_total"])
            return await self._with_buffers(content, len(data))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DecoderLost from error

    async def _with_buffers(self, content: dict[str, Any], sent: int) -> Reply:
        if "fields" not in content:
            return Reply(content, None)
        sizes = [int(size) for size in content["sizes"]]
        if min(sizes, default=0) < 0 or sum(sizes) > os.fstat(self._memory).st_size:
            raise DecoderLost
        buffers: tuple[bytes, ...] = await _copy(sum(sizes), _split, self._memory, sizes)
        if max(sum(sizes), sent) > _KEPT:
            os.ftruncate(self._memory, 0)
        return Reply(content, Decoded(content["fields"], buffers))

    async def _receive(self) -> bytes:
        """One reply, which mostly comes in one piece."""
        loop, data = asyncio.get_running_loop(), b""
        while len(data) < HEAD or len(data) < HEAD + frame_size(data[:HEAD]):
            piece = await loop.sock_recv(self._line, _PIECE)
            data += piece
            if not piece or len(data) > _LONGEST_REPLY:
                raise DecoderLost
        return data[HEAD:]


def _close(line: socket.socket, memory: int) -> None:
    line.close()
    os.close(memory)


async def _copy(size: int, function: Any, *arguments: Any) -> Any:
    if size <= _AT_ONCE:
        return function(*arguments)
    return await to_thread.run_sync(function, *arguments)


def _split(memory: int, sizes: list[int]) -> tuple[bytes, ...]:
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    return tuple(
        read_shared(memory, size, offset) for size, offset in zip(sizes, offsets, strict=True)
    )


class NurseryProcess:
    """The process that decoders are forked from; started when the first is wanted, and again if
    it is lost. For all threads; each call may block.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def fork(self, limits: DecoderLimits) -> Decoder:
        """A new decoder. Raises EngineError where the system has no room for one."""
        try:
            return self._forked(limits)
        except OSError as error:
            raise EngineError(f"no decoder could be started: {error}") from error

    def _forked(self, limits: DecoderLimits) -> Decoder:
        ours, theirs = socket.socketpair()
        memory = _shared_memory()
        try:
            for last in (False, True):
                try:
                    pid = self._ask(("fork", limits), theirs.fileno(), memory) or 0
                    break
                except (OSError, ValueError):  # it was killed; another one is started
                    self.stop()
                    if last:
                        raise
        except BaseException:
            _close(ours, memory)
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return Decoder(pid, ours, memory)

    def end(self, decoder: Decoder) -> int | None:
        """Kills the decoder if it still runs; how it ended, None if that is not known."""
        try:
            status = self._ask(("end", decoder.pid))
        except (OSError, ValueError):
            status = None
        decoder.close()
        return status

    def _ask(self, request: tuple[str, Any], *descriptors: int) -> int | None:
        with self._lock:
            if self._line is None:
                self._start()
            assert self._line is not None
            socket.send_fds(self._line, [pickle.dumps(request)], descriptors)
            reply: int | None = json.loads(self._line.recv(_LONGEST_REPLY))["reply"]
            return reply

    def _start(self) -> None:
        line, theirs = socket.socketpair()
        with theirs:
            try:
                self._popen = subprocess.Popen(  # noqa: S603 (our own module, no shell)
                    [sys.executable, "-m", _NURSERY, str(theirs.fileno()), *self._modules],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is the web process's to handle
                )
            except BaseException:
                line.close()
                raise
        self._line = line
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends it, and all decoders that it forked."""
        with self._lock:
            if self._line is not None:
                self._line.close()
            if self._popen is not None:
                try:
                    self._popen.wait(_PATIENCE)  # it ends the decoders, then itself
                except subprocess.TimeoutExpired:
                    self._popen.kill()
                    self._popen.wait()
            self._line = self._popen = None
            atexit.unregister(self.stop)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",  # a folder named "server" where we were started is not ours
        # The cores are the engine's, and a process with threads cannot be forked.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "VECLIB_MAXIMUM_THREADS": "1",
    }


def _shared_memory() -> int:
    """A descriptor of memory that two processes may share, without a name in the file system.

    It is read and written, not mapped: one copy each way, and a decoder that shortens it cannot
    hurt who reads it. Where the system has no memfd, an unlinked temporary file serves.
    """
    with suppress(AttributeError, OSError):
        return os.memfd_create("llava-decoder", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@cache
def nursery(*modules: str) -> NurseryProcess:
    """The process's own nursery for these modules: pools may share it."""
    return NurseryProcess(modules)
