"""A decoder's own side: confined once, then one job after the other until the line closes."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from server.decoders.memory import read_shared, write_pieces
from server.decoders.system_calls import restrict_system_calls
from server.decoders.work import DecoderLimits, Job, Result, frame, receive_frame
from server.errors import LlavaError

# Where the line and the shared memory lie; below are the three standard streams, and no other
# descriptor is permitted.
_LINE, _MEMORY, _DESCRIPTORS = 3, 4, 5
_MOST_INHERITED: Final = 4096
_LONGEST_TRACE: Final = 4000
# Made before it is wanted, when there is no memory to make it.
_EXCEEDED: Final = frame(b'{"exceeded": "memory", "cpu_total": 0}')


def decode_until_closed(
    line: int, memory: int, limits: DecoderLimits, size: int | None
) -> NoReturn:
    """A forked process's whole life. Never returns into the code that forked it.

    ``size`` is the ``own_size`` of the process that it was forked from.
    """
    try:
        _confine(line, memory, limits, size)
        with socket.socket(fileno=_LINE) as ours:
            restrict_system_calls()
            while (request := receive_frame(ours)) is not None:
                payload, descriptors = request
                _take(descriptors)
                try:
                    ours.sendall(frame(json.dumps(_reply(payload)).encode()))
                except MemoryError:
                    ours.sendall(_EXCEEDED)
                    break  # a codec that ran out of memory may have left anything behind
    finally:
        os._exit(0)


def _confine(line: int, memory: int, limits: DecoderLimits, size: int | None) -> None:
    """Takes away what decoding does not need. docs/hardening.md says what holds where."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    # Free of 0 to 4 first, so that none of the five is overwritten before it is moved.
    sources = [os.dup(one) for one in (null, null, null, line, memory)]
    while min(sources) < _DESCRIPTORS:
        sources = [os.dup(one) for one in sources]
    for target, source in enumerate(sources):
        os.dup2(source, target)
    os.closerange(_DESCRIPTORS, _MOST_INHERITED)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, limits.shared_bytes)
    # No file and no socket can be opened any more, and no process be started; where the system has
    # seccomp, not even by a codec that runs a client's code (system_calls).
    _bound(resource.RLIMIT_NOFILE, _DESCRIPTORS)
    if sys.platform != "linux":  # there it counts threads, too, which HEIC needs
        _bound(resource.RLIMIT_NPROC, 0)
    if size is not None:
        _bound(resource.RLIMIT_AS, size + limits.memory_bytes)


def _take(descriptors: list[int]) -> None:
    """Puts the shared memory that came with a job in its place, which the last job emptied."""
    for descriptor in descriptors:
        if descriptor != _MEMORY:
            os.dup2(descriptor, _MEMORY)
            os.close(descriptor)


def _bound(what: int, limit: int) -> None:
    try:
        resource.setrlimit(what, (limit, limit))
    except (OSError, ValueError):  # a system that does not know this limit; the others hold
        return


def own_size() -> int | None:
    """Bytes of address space that this process has; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return None
    return pages * resource.getpagesize()


def _reply(request: bytes) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    try:
        job = Job(*pickle.loads(request))  # noqa: S301 (from our own web process)
        # Ends the process, by the signal's default action.
        signal.setitimer(signal.ITIMER_PROF, job.cpu_seconds)
        arguments = _unpickled(job.arguments)
        result = _function(job.function)(read_shared(_MEMORY, job.n_bytes), *arguments)
        reply = _done(job, result)
    except LlavaError as error:
        reply = {"refused": [error.message, error.code]}
    except MemoryError:
        raise
    except Exception:
        reply = {"failed": traceback.format_exc()[-_LONGEST_TRACE:]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    reply["cpu_total"] = time.process_time()
    reply["cpu_seconds"] = reply["cpu_total"] - cpu
    reply["seconds"] = time.perf_counter() - began
    return reply


@lru_cache(maxsize=16)
def _unpickled(arguments: bytes) -> Any:
    return pickle.loads(arguments)  # noqa: S301 (from our own web process)


@cache
def _function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _done(job: Job, result: Result) -> dict[str, Any]:
    places = write_pieces(_MEMORY, result.pieces)
    if sum(size for _, size in places) > job.most_copied:
        os.close(_MEMORY)  # it is the web process's, which seals it
    return {"fields": result.fields, "places": places}
