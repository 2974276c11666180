"""The engine process's outer loop: messages in, steps, messages out."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from server.engine.core import EngineCore
from server.engine.counting import count
from server.engine.encoding import EncodeDone
from server.messages import AbortRequest, AddRequest, CountRequest, Shutdown, StepOutputs

logger = logging.getLogger(__name__)


class Inbox:
    """Messages of the web process, read by a thread so that the loop never waits for them.

    When the line closes, the web process is gone, however it went: then nothing here is of use
    to anybody, and the process ends at once, even from inside a long call into llama.cpp.
    """

    def __init__(self, line: Connection[Any, Any]) -> None:
        self._line = line
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                message = self._line.recv()
            except (EOFError, OSError):
                os._exit(0)
            self._queue.put(message)

    def put(self, message: object) -> None:
        """A message from within the engine process; wakes the loop like one from outside."""
        self._queue.put(message)

    def take(self, *, wait: bool) -> list[Any]:
        """All messages there are; with ``wait``, at least one."""
        messages = [self._queue.get()] if wait else []
        while not self._queue.empty():
            messages.append(self._queue.get())
        return messages


def serve(core: EngineCore, inbox: Inbox, line: Connection[Any, Any]) -> None:
    """Steps until told to stop. A failed step is reported as EngineDead and raised."""
    while True:
        messages = inbox.take(wait=not core.has_work)
        start = time.perf_counter()
        for message in messages:
            if isinstance(message, Shutdown):
                return
            if isinstance(message, AddRequest):
                core.add(message)
            elif isinstance(message, AbortRequest):
                core.abort(message)
            elif isinstance(message, CountRequest):
                line.send(StepOutputs((count(core.runner, message),)))
            elif isinstance(message, EncodeDone):
                core.take_encoded(message)
        # What was admitted or refused is told before the step that may take long.
        outputs = core.take_outputs()
        if outputs:
            line.send(StepOutputs(outputs))
        line.send(core.step())
        core.busy_seconds += time.perf_counter() - start
