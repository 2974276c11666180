"""The engine process's outer loop: messages in, steps, outputs out."""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from server.engine.client_time import ClientTime
from server.engine.core import EngineCore
from server.engine.cpu_cores import unbind
from server.engine.grammar_thread import GrammarThread
from server.engine.heartbeat import Work
from server.engine.intake import count
from server.engine.request import Picture, Segment
from server.engine.tokenize_thread import TokenizedPrompt, TokenizeThread, is_long
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

# Tokenizing the longest prompt that the API accepts, on a slow machine.
SECONDS_PER_MESSAGE = 5.0


class OutputBuffer:
    """Sends each step's outputs at once, except tokens that come faster than a screen shows them.

    To send a token wakes two processes, ours and the client's, beside the threads that compute the
    next one. So the outputs of short steps are sent together, at most ``interval`` seconds after
    the last time (vLLM's ``--stream-interval`` does so by number). A request's first token and its
    end never wait, and nothing waits while the next step may take longer than the last.
    """

    def __init__(self, send: Callable[[Any], None], interval: float) -> None:
        self._send = send
        self._interval = interval
        self._held: list[StepOutputs] = []
        self._sent = 0.0

    def put(self, step: StepOutputs, *, steady: bool) -> None:
        """Takes a finished step's outputs; ``steady`` if the next step is likely to be like it."""
        self._held.append(step)
        late = time.monotonic() + step.step_seconds > self._sent + self._interval
        if late or not steady or not all(map(_can_wait, step.outputs)):
            self.flush()

    def flush(self) -> None:
        """Sends all that is held."""
        if self._held:
            held, self._held = self._held, []
            self._send(held[0] if len(held) == 1 else held)
        self._sent = time.monotonic()


def _can_wait(output: object) -> bool:
    return isinstance(output, TokenOutput) and not output.finish_reason and output.timings is None


class Inbox:
    """Messages of the web process, read by a thread so that the loop never waits for them.

    When the line closes, the web process has ended, in whatever way. No client is left then, so the
    engine process ends at once, even from inside a long call into llama.cpp.
    """

    def __init__(self, line: Connection[Any, Any]) -> None:
        # Holds slow requests back, once the model is loaded.
        self.grammar_thread: GrammarThread | None = None
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
            if not self._held_back(message):
                self._queue.put(message)

    def _held_back(self, message: object) -> bool:
        """Whether the grammar thread keeps the request, or kept the one that is aborted."""
        thread = self.grammar_thread
        if thread is None:
            return False
        if isinstance(message, AddRequest) and message.sampling.slow_to_begin:
            thread.hold(message)
            return True
        return isinstance(message, AbortRequest) and thread.drop(message.request_id)

    def put(self, message: object) -> None:
        """Adds a message from within the engine process; it wakes the loop like any other."""
        self._queue.put(message)

    @property
    def empty(self) -> bool:
        """Whether no message waits."""
        return self._queue.empty()

    def take(self, *, wait: bool) -> list[Any]:
        """Returns all messages there are; with ``wait``, at least one."""
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


class EngineLoop:
    """Takes messages, steps the core and sends its outputs, until a Shutdown comes."""

    def __init__(
        self,
        core: EngineCore,
        inbox: Inbox,
        outbox: Outbox,
        slices: SlicedEncodes | None = None,
        client_time: ClientTime | None = None,
        *,
        stream_interval: float = 0.0,
    ) -> None:
        self._core = core
        self._buffer = OutputBuffer(outbox.send, stream_interval)
        self._inbox = inbox
        self._outbox = outbox
        self._slices = slices
        self._stopped = False
        self._work = core.work
        self._client_time = client_time or ClientTime(outbox.send)
        self._texts = TokenizeThread(core.runner, inbox.put, outbox.send, self._client_time)

    def serve(self) -> None:
        """Returns after a Shutdown. An exception of a step passes: llama.cpp may be damaged."""
        slices = self._slices
        while not self._stopped:
            # Outputs of an encode count as work: the iteration sends them, with the statistics.
            encode = slices is not None and slices.jobs
            self._iterate(wait=not (self._core.has_work or encode))
            if slices is not None and slices.jobs and not self._stopped:
                self._encode_next(slices)
        self._buffer.flush()
        self._texts.close()

    def _encode_next(self, slices: SlicedEncodes) -> None:
        def note_progress() -> None:
            self._work["encoder"] = Work("encode", time.monotonic(), slices.expected)

        def step_between() -> float | None:
            # The encode waits for the step, which has its own time.
            self._work.pop("encoder", None)
            spent = self._iterate(wait=False)
            note_progress()
            return spent if self._core.has_work else None

        def has_message() -> bool:
            note_progress()  # asked at every cut
            return not self._inbox.empty

        note_progress()
        results = slices.encode_next(step_between, has_message, self._needs)
        self._work.pop("encoder", None)
        self._core.scheduler.pace.hurried = True
        for done in results:
            self._core.take_encoded(done)

    def _needs(self, picture: Picture) -> bool:
        return not self._stopped and self._core.scheduler.needs(picture)

    def _iterate(self, *, wait: bool) -> float:
        """Takes messages and runs one step; returns the seconds that this took."""
        self._work.pop("loop", None)
        if wait:
            self._buffer.flush()
        messages = self._inbox.take(wait=wait)
        if messages:
            self._buffer.flush()  # the new messages may make this step a long one
        start = time.perf_counter()
        if messages:
            expected = SECONDS_PER_MESSAGE * len(messages)
            self._work["loop"] = Work("messages", time.monotonic(), expected)
        for message in messages:
            self._handle(message)
        # Whether a request was admitted or refused is sent before the step, which may take long.
        outputs = self._core.take_outputs()
        if outputs:
            self._outbox.send(StepOutputs(outputs))
        if not self._stopped:
            step = self._core.step()
            self._buffer.put(step, steady=self._core.scheduler.decodes_only)
        spent = time.perf_counter() - start
        self._core.busy_seconds += spent
        self._work.pop("loop", None)
        return spent

    def _handle(self, message: object) -> None:
        if isinstance(message, Shutdown):
            self._stopped = True
        elif isinstance(message, TokenizeRequest | DetokenizeRequest):
            self._texts.submit(message)
        elif isinstance(message, AddRequest | EmbedRequest | CountRequest):
            if is_long(message.parts):
                self._texts.submit(message)
            else:
                self._client_time.note(message.account)
                with self._client_time.charging(message.account):
                    self._begin(message)
        elif isinstance(message, TokenizedPrompt):
            if self._texts.release(message.message.request_id):
                self._begin(message.message, message.segments)
        elif isinstance(message, AbortRequest):
            if not self._texts.drop(message.request_id):
                self._core.abort(message)
        elif isinstance(message, EncodeDone):
            self._core.take_encoded(message)

    def _begin(
        self,
        message: AddRequest | EmbedRequest | CountRequest,
        segments: tuple[Segment, ...] | None = None,
    ) -> None:
        if isinstance(message, CountRequest):
            self._outbox.send(StepOutputs((count(self._core.runner, message),)))
        elif isinstance(message, EmbedRequest):
            self._core.embed(message, segments)
        else:
            self._core.add(message, segments)
