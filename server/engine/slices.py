"""Pictures are encoded in slices, with the others' steps between, where both need the processor."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engine.encoding import EncodeDone, encode_run
from server.engine.request import ImageRun
from server.messages import ImageInput


class Interruptible(Protocol):
    """Runs an encode and calls something at cuts within it (server.engine.bindings.cuts)."""

    seconds_away: float
    ended: bool

    def run(self, work: Callable[[], Any], between: Callable[[], bool]) -> Any:
        """Calls ``work``, and ``between`` every few milliseconds of it; False ends it early."""


class SlicedEncodes:
    """Takes pictures as EncodeThread does, and encodes them in the engine's own thread.

    A tower in a thread of its own would fight the decode for the same cores: each waits at its
    barriers for threads that the other one keeps from running. Here one of the two has all cores
    at any time: a step, a slice of the encode, a step. A slice is what the step leaves of
    ``target`` seconds, and never less than half of the step, so that pictures come on too.
    """

    def __init__(
        self,
        encode: Callable[[ImageInput], NDArray[np.float32]],
        cuts: Interruptible,
        target: float,
    ) -> None:
        self._encode = encode
        self._cuts = cuts
        self._target = target
        self._jobs: deque[ImageRun] = deque()

    def submit(self, run: ImageRun) -> None:
        """Queues a picture."""
        self._jobs.append(run)

    def close(self) -> None:
        """Nothing runs but within ``encode_next``."""
        self._jobs.clear()

    @property
    def pending(self) -> bool:
        """Whether a picture waits to be encoded."""
        return bool(self._jobs)

    def encode_next(
        self,
        step: Callable[[], float | None],
        called: Callable[[], bool],
        wanted: Callable[[ImageRun], bool],
    ) -> EncodeDone:
        """Encodes the picture that has waited longest.

        ``step`` does others' work and returns the seconds it took, None if there was none;
        ``called`` tells whether a message waits for a step; a picture that is not ``wanted``
        any more is left where it is.
        """
        run = self._jobs.popleft()
        until = time.perf_counter()

        def between() -> bool:
            nonlocal until
            if time.perf_counter() < until and not called():
                return True
            spent = step()
            share = float("inf") if spent is None else max(self._target - spent, spent / 2)
            until = time.perf_counter() + share
            return wanted(run)

        done: EncodeDone = self._cuts.run(lambda: encode_run(self._encode, run), between)
        seconds = done.seconds - self._cuts.seconds_away
        if self._cuts.ended:
            return EncodeDone(run, None, "nobody waits for it any more", seconds)
        return replace(done, seconds=seconds)
