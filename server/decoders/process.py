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
import threading
import weakref
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import psutil
from anyio import to_thread
from cachetools import LRUCache

from server.decoders.memory import SharedMemory
from server.decoders.work import HEAD, Decoded, DecoderLimits, Job, frame, frame_size
from server.errors import EngineError

# What is written on the event loop: 0.1 ms; a thread costs as much.
_AT_ONCE: Final = 512 * 1024
# Nothing else of the environment is a codec's business, API keys least of all.
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_", "TZ", "LD_LIBRARY", "DYLD_", "PYTHON", "COV")
# Python takes memory by the MiB, glibc by 2 where pages are huge.
_NO_MORE: Final = 2 * 1024**2
_LONGEST_REPLY: Final = 1024 * 1024
_PIECE: Final = 64 * 1024
_PATIENCE: Final = 2.0
# A third of the share that others have: enough to end within the wall time beside a busy engine.
_NICE: Final = 5
_NURSERY: Final = "server.decoders.nursery"
# A picture's memory is freed after each, and a fault for each of its pages was a third of the time
# that decoding took. So what is small stays with the process, and what is large comes in pages of
# 2 MiB where the system has them. glibc 2.35 knows all three; others ignore them.
_TUNABLES: Final = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={4 * 1024**2}",
        f"glibc.malloc.trim_threshold={32 * 1024**2}",
    )
)


class DecoderLost(Exception):  # noqa: N818 (how a process ended, which may be as it should)
    """The decoder ended before it replied."""


@dataclass(slots=True, frozen=True)
class Reply:
    """A decoder's reply as it came: ``fields`` and ``places``, or why there are none."""

    content: dict[str, Any]
    decoded: Decoded | None


class Decoder:
    """One decoder process, its line and the memory that it shares. Does one job at a time."""

    def __init__(self, pid: int, line: socket.socket, memory: SharedMemory) -> None:
        self.pid = pid
        self._line = line
        self._memory: SharedMemory | None = memory
        self._cpu_before = 0.0
        # A decoder ends when its line closes, so that none outlives the pool that forgot it.
        self.close = weakref.finalize(self, line.close)

    @cached_property
    def _process(self) -> psutil.Process:
        return psutil.Process(self.pid)

    @cached_property
    def _most_memory(self) -> int:
        return self._process.rlimit(psutil.RLIMIT_AS)[1]

    @property
    def waits(self) -> bool:
        """Whether it is there and has nothing to say, as one without a job should."""
        return not select.select([self._line], [], [], 0)[0]

    def cpu_seconds(self) -> float:
        """Processor time of the job that it has; 0 where that cannot be known."""
        try:
            times = self._process.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system) - self._cpu_before

    def memory_is_exhausted(self) -> bool:
        """Whether it has all of the address space that it may have, as far as the system says.

        Python 3.11 loops for ever where it has no memory left for the line number of a MemoryError.
        """
        try:
            most = self._most_memory
            return 0 <= most < self._process.memory_info().vms + _NO_MORE
        except (AttributeError, psutil.Error):
            return False

    def be_nice(self) -> None:
        """Lets everything else on this machine go first, for the rest of its life."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.pid, _NICE)

    def do(
        self, function: str, data: bytes, arguments: tuple[Any, ...], cpu_seconds: float
    ) -> asyncio.Future[Reply]:
        """What ``function`` makes of ``data``. The future raises DecoderLost."""
        descriptors = []
        try:
            if self._memory is None:
                self._memory = SharedMemory()
                descriptors = [self._memory.descriptor]
            memory = self._memory
            fixed = _pickled(arguments)
            job = Job(function, len(data), fixed, cpu_seconds, memory.most_copied)
            request = frame(pickle.dumps(tuple(job)))
            if len(data) > _AT_ONCE:
                written = to_thread.run_sync(memory.write, data)
                return asyncio.ensure_future(self._send_after(written, request, descriptors))
            # A task would take a tenth of the time that a small picture does.
            memory.write(data)
            return self._send(request, descriptors)
        except OSError:
            lost: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            lost.set_exception(DecoderLost())
            return lost

    async def _send_after(
        self, written: Awaitable[None], request: bytes, descriptors: list[int]
    ) -> Reply:
        try:
            await written
            return await self._send(request, descriptors)
        except OSError as error:
            raise DecoderLost from error

    def _send(self, request: bytes, descriptors: list[int]) -> asyncio.Future[Reply]:
        loop, line = asyncio.get_running_loop(), self._line.fileno()
        if socket.send_fds(self._line, [request], descriptors) < len(request):
            raise OSError("the line to the decoder is full")  # as if there were no decoder
        reply: asyncio.Future[Reply] = loop.create_future()
        loop.add_reader(line, self._receive, reply, bytearray())
        reply.add_done_callback(lambda _: loop.remove_reader(line))
        return reply

    def _receive(self, reply: asyncio.Future[Reply], received: bytearray) -> None:
        """Reads a piece of the reply, which mostly comes in one."""
        if reply.done():
            return
        try:
            piece = self._line.recv(_PIECE)
            received += piece
            if not piece or len(received) > _LONGEST_REPLY:
                raise EOFError
            if len(received) >= HEAD and len(received) >= HEAD + frame_size(received[:HEAD]):
                self._take_reply(json.loads(received[HEAD:]), reply)
        except BlockingIOError:
            return
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            reply.set_exception(DecoderLost())

    def _take_reply(self, content: dict[str, Any], reply: asyncio.Future[Reply]) -> None:
        self._cpu_before = float(content["cpu_total"])
        if "fields" not in content:
            reply.set_result(Reply(content, None))
            return
        memory = self._memory
        assert memory is not None
        places = [(int(start), int(size)) for start, size in content["places"]]
        memory.check(places)
        size = sum(size for _, size in places)
        if size > memory.most_copied:
            self._memory = None
            reply.set_result(Reply(content, Decoded(content["fields"], memory.taken(places))))
            return
        if size <= _AT_ONCE:
            reply.set_result(Reply(content, Decoded(content["fields"], memory.copied(places))))
            memory.shrink()
            return
        copying = asyncio.get_running_loop().run_in_executor(None, memory.copied, places)
        copying.add_done_callback(lambda done: _copied(content, done, reply))


_pickles: LRUCache[tuple[int, ...], tuple[tuple[Any, ...], bytes]] = LRUCache(16)


def _pickled(arguments: tuple[Any, ...]) -> bytes:
    """Pickles the same objects once. They are kept, so that their ids stay theirs."""
    key = tuple(map(id, arguments))
    if (found := _pickles.get(key)) is None:
        found = _pickles[key] = (arguments, pickle.dumps(arguments))
    return found[1]


def _copied(
    content: dict[str, Any],
    copying: asyncio.Future[tuple[bytes, ...]],
    reply: asyncio.Future[Reply],
) -> None:
    if reply.done():
        return
    if copying.cancelled() or copying.exception() is not None:
        reply.set_exception(DecoderLost())
    else:
        reply.set_result(Reply(content, Decoded(content["fields"], copying.result())))


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
        memory = SharedMemory()
        ours, theirs = socket.socketpair()
        try:
            for last in (False, True):
                try:
                    pid = self._ask(("fork", limits), theirs.fileno(), memory.descriptor) or 0
                    break
                except (OSError, ValueError):  # it was killed; another one is started
                    self.stop()
                    if last:
                        raise
        except BaseException:
            ours.close()
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
        "GLIBC_TUNABLES": _TUNABLES,
    }


@cache
def nursery(*modules: str) -> NurseryProcess:
    """The process's own nursery for these modules: pools may share it."""
    return NurseryProcess(modules)
