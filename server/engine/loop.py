"""The engine process's outer loop: messages in, steps, messages out."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from server.engine.core import EngineCore
from server.engine.cpu_cores import unbind
from server.engine.grammar_thread import Foresight
from server.engine.intake import count
from server.engine.request import Picture
from server.engine.tokenize_thread import TextThread
from server.engine.vision.encode import EncodeDone, SlicedEncodes
from server.messages import (
    AbortRequest,
    AddRequest,
    CountRequest,
    DetokenizeRequest,
    EmbedRequest,
    Shutdown,
    StepOutputs,
    TokenizeRequest,
    TokenOutput,
)


class Outgoing:
    """Tells of each step at once, but for tokens that come faster than a screen shows them.

    To pass a token on wakes two processes, ours and the client's, beside the threads that compute
    the next one. So short steps are told of together, ``interval`` seconds after the last time at
    the latest (vLLM's ``--stream-interval`` does so by number). A request's first token and its end
    never wait, nor does anything while the next step may take longer than the last.
    """

    def __init__(self, send: Callable[[Any], None], interval: float) -> None:
        self._send = send
        self._interval = interval
        self._held: list[StepOutputs] = []
        self._sent = 0.0

    def put(self, step: StepOutputs, *, steady: bool) -> None:
        """A step has come to its end; ``steady`` if the next one is likely to be like it."""
        self._held.append(step)
        late = time.monotonic() + step.step_seconds > self._sent + self._interval
        if late or not steady or not all(map(_can_wait, step.outputs)):
            self.flush()

    def flush(self) -> None:
        """Sends what there is."""
        if self._held:
            held, self._held = self._held, []
            self._send(held[0] if len(held) == 1 else held)
        self._sent = time.monotonic()


def _can_wait(output: object) -> bool:
    return isinstance(output, TokenOutput) and not output.finish_reason and output.timings is None


logger = logging.getLogger(__name__)

# Tokenizing the longest prompt that the API takes, on a slow machine.
SECONDS_A_MESSAGE = 5.0


class Inbox:
    """Messages of the web process, read by a thread so that the loop never waits for them.

    When the line closes, the web process is gone, however it went: then nothing here is of use
    to anybody, and the process ends at once, even from inside a long call into llama.cpp.
    """

    def __init__(self, line: Connection[Any, Any]) -> None:
        # Holds slow requests back, once the model is loaded.
        self.foresight: Foresight | None = None
        self._line = line
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def _read(self) -> None:
        unbind()
        while True:
            try:
                message = self._line.recv()
            except (EOFError, OSError):
                os._exit(0)
            if self.foresight is None or not self.foresight.takes(message):
                self._queue.put(message)

    def put(self, message: object) -> None:
        """A message from within the engine process; wakes the loop like one from outside."""
        self._queue.put(message)

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return self._queue.empty()

    def take(self, *, wait: bool) -> list[Any]:
        """All messages there are; with ``wait``, at least one."""
        messages = [self._queue.get()] if wait else []
        while not self._queue.empty():
            messages.append(self._queue.get())
        return messages


class Outbox:
    """Messages to the web process, from the loop and from the heartbeat's thread."""

    def __init__(self, line: Connection[Any, Any]) -> None:
        self._line = line
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Writes one message."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._line.send_bytes(data)


class Worker:
    """Steps the core until told to stop."""

    def __init__(
        self,
        core: EngineCore,
        inbox: Inbox,
        line: Outbox,
        slices: SlicedEncodes | None = None,
        *,
        stream_interval: float = 0.0,
    ) -> None:
        self._core = core
        self._outgoing = Outgoing(line.send, stream_interval)
        self._inbox = inbox
        self._line = line
        self._slices = slices
        self._stopped = False
        self._pulse = core.pulse
        self._texts = TextThread(
            core.runner.vocabulary, lambda answer: line.send(StepOutputs((answer,)))
        )

    def serve(self) -> None:
        """Returns after a Shutdown. An exception of a step passes: llama.cpp may be damaged."""
        slices = self._slices
        while not self._stopped:
            # Outputs of an encode are work too: the turn sends them, with the statistics.
            encode = slices is not None and slices.pending
            self._turn(wait=not (self._core.has_work or encode))
            if slices is not None and slices.pending and not self._stopped:
                self._encode_next(slices)
        self._outgoing.flush()
        self._texts.close()

    def _encode_next(self, slices: SlicedEncodes) -> None:
        self._encode_on()
        results = slices.encode_next(self._step_between, self._called, self._wanted)
        self._pulse.end("encoder")
        self._core.scheduler.pace.hurried = True
        for done in results:
            self._core.take_encoded(done)

    def _step_between(self) -> float | None:
        """A turn in the middle of an encode; returns its seconds, None if there was no step."""
        # The encode waits for the step, which has its own time.
        self._pulse.end("encoder")
        spent = self._turn(wait=False)
        self._encode_on()
        return spent if self._core.has_work else None

    def _encode_on(self) -> None:
        assert self._slices is not None
        self._pulse.begin("encoder", "encode", self._slices.expected)

    def _called(self) -> bool:
        # Asked at every cut: the encode comes on.
        self._encode_on()
        return not self._inbox.empty

    def _wanted(self, picture: Picture) -> bool:
        return not self._stopped and self._core.scheduler.wants(picture)

    def _turn(self, *, wait: bool) -> float:
        self._pulse.end("loop")
        if wait:
            self._outgoing.flush()
        messages = self._inbox.take(wait=wait)
        if messages:
            self._outgoing.flush()  # what they ask for may make this step a long one
        start = time.perf_counter()
        self._pulse.begin("loop", "messages", SECONDS_A_MESSAGE * len(messages))
        for message in messages:
            self._take(message)
        # What was admitted or refused is told before the step that may take long.
        outputs = self._core.take_outputs()
        if outputs:
            self._line.send(StepOutputs(outputs))
        if not self._stopped:
            step = self._core.step()
            self._outgoing.put(step, steady=self._core.scheduler.steady)
        spent = time.perf_counter() - start
        self._core.busy_seconds += spent
        self._pulse.end("loop")
        return spent

    def _take(self, message: object) -> None:
        if isinstance(message, Shutdown):
            self._stopped = True
        elif isinstance(message, AddRequest):
            self._core.add(message)
        elif isinstance(message, EmbedRequest):
            self._core.embed(message)
        elif isinstance(message, AbortRequest):
            self._core.abort(message)
        elif isinstance(message, CountRequest):
            self._line.send(StepOutputs((count(self._core.runner, message),)))
        elif isinstance(message, TokenizeRequest | DetokenizeRequest):
            self._texts.submit(message)
        elif isinstance(message, EncodeDone):
            self._core.take_encoded(message)
