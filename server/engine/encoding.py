"""Pictures are encoded in a thread of their own, so that nobody's stream waits for them."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.engine.cores import unbind
from server.engine.pulse import Pulse
from server.engine.request import ImageRun
from server.messages import ImageInput

# Where decode and encode want the same cores, decode is served first.
_NICENESS = 5
# Seconds that the first square may take; those after it, about as long as the slowest so far.
_FIRST_SQUARE = 30.0


@dataclass(slots=True, frozen=True)
class EncodeDone:
    """The result for ``run``: its rows, float32 [n_tokens, n_embd], or what went wrong.

    ``start`` is ``time.monotonic()``.
    """

    run: ImageRun
    rows: NDArray[np.float32] | None
    error: str
    seconds: float
    start: float = 0.0


class EncodeThread:
    """Encodes one picture at a time; ``done`` is called with the result, in this thread."""

    def __init__(
        self,
        encode: Callable[[ImageInput], NDArray[np.float32]],
        done: Callable[[EncodeDone], None],
    ) -> None:
        self._encode = encode
        self._done = done
        self.pulse = Pulse()
        self._slowest = 0.0
        self._jobs: queue.SimpleQueue[ImageRun | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
        self._thread.start()

    def submit(self, run: ImageRun) -> None:
        """Queues a picture; returns at once."""
        self._jobs.put(run)

    def close(self) -> None:
        """Waits for the picture in work, if any, and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        unbind()
        # On Linux a priority is a thread's, and OpenMP's threads inherit it from this one.
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (run := self._jobs.get()) is not None:
            self._done(self._timed(run))

    def _timed(self, run: ImageRun) -> EncodeDone:
        squares = run.image.n_squares
        self.pulse.begin("encoder", "encode", squares * (self._slowest or _FIRST_SQUARE))
        done = encode_run(self._encode, run)
        self._slowest = max(self._slowest, done.seconds / squares)
        self.pulse.end("encoder")
        return done


def encode_run(encode: Callable[[ImageInput], NDArray[np.float32]], run: ImageRun) -> EncodeDone:
    """Encodes one picture, here and now. A failure is a result: others' requests go on."""
    start = time.monotonic()
    try:
        rows = encode(run.image)
    except (RuntimeError, ValueError) as failure:
        return EncodeDone(run, None, str(failure), time.monotonic() - start, start)
    seconds = time.monotonic() - start
    if len(rows) != run.n_tokens:
        counted = f"counted {run.n_tokens} picture tokens, encoded {len(rows)}"
        return EncodeDone(run, None, counted, seconds, start)
    return EncodeDone(run, rows, "", seconds, start)
