"""python -m server.decoders.nursery DESCRIPTOR MODULE...: what decoders are forked from.

It has imported the codecs, so that a decoder starts in milliseconds and shares their memory with
the others. It decodes nothing itself, has one thread, and ends with the web process.

The line brings pickled requests, answered with JSON one by one:
``("fork", limits)`` with a line's and a memory's descriptor: the new process's id;
``("end", pid)``: kills it if it still runs; how it ended, as ``Popen.returncode`` says it.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

from server.decoders.child import decode_until_closed, own_size
from server.decoders.work import DecoderLimits

_LONGEST_REQUEST = 4096


class Nursery:
    """Forks, ends and remembers decoders. ``ended`` has those that were not asked about yet."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._size = own_size()
        self._running: set[int] = set()
        self._ended: dict[int, int] = {}

    def serve(self) -> None:
        """Until the web process is gone."""
        while True:
            request, descriptors, _, _ = socket.recv_fds(self._line, _LONGEST_REQUEST, 2)
            if not request:
                break
            word, argument = pickle.loads(request)  # noqa: S301 (from our own web process)
            self._sweep()
            fork = word == "fork"
            reply = self._fork(descriptors, argument) if fork else self._end(argument)
            self._line.sendall(json.dumps({"reply": reply}).encode())
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)

    def _fork(self, descriptors: list[int], limits: DecoderLimits) -> int:
        pid = os.fork()
        if not pid:
            decode_until_closed(descriptors[0], descriptors[1], limits, self._size)
        for descriptor in descriptors:
            os.close(descriptor)
        self._running.add(pid)
        return pid

    def _end(self, pid: int) -> int | None:
        if pid in self._running:  # not reaped yet, so that the id is still its own
            os.kill(pid, signal.SIGKILL)
            self._reap(pid, os.waitpid(pid, 0)[1])
        return self._ended.pop(pid, None)

    def _sweep(self) -> None:
        """Reaps those that ended by themselves, because their line closed or against a limit."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._reap(*found)

    def _reap(self, pid: int, status: int) -> None:
        self._running.discard(pid)
        self._ended[pid] = os.waitstatus_to_exitcode(status)
        while len(self._ended) > 1000:  # of pools that closed
            self._ended.pop(next(iter(self._ended)))


def main(arguments: list[str]) -> None:
    """Imports, then serves until the web process closes the line."""
    # Ctrl-C is for the web process, which ends this one; here it would only print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in arguments[1:]:
        import_module(module)
    gc.collect()
    gc.freeze()  # or the collector would write to the pages that the processes share
    with socket.socket(fileno=int(arguments[0])) as line, suppress(ConnectionError):
        Nursery(line).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
