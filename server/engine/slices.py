"""Pictures are encoded in slices, with the others' steps between, where both need the processor."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from server.engine.encoding import Encode, EncodeDone, encode_pictures
from server.engine.request import Picture


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

    def __init__(self, encode: Encode, cuts: Interruptible, target: float) -> None:
        self._encode = encode
        self._cuts = cuts
        self._target = target
        self._jobs: deque[list[Picture]] = deque()

    def submit(self, pictures: list[Picture]) -> None:
        """Queues pictures, to be encoded together."""
        self._jobs.append(pictures)

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
        wanted: Callable[[Picture], bool],
    ) -> list[EncodeDone]:
        """Encodes the picture that has waited longest, and those submitted with it.

        ``step`` does others' work and returns the seconds it took, None if there was none;
        ``called`` tells whether a message waits for a step; pictures of which none is ``wanted``
        any more are left where they are.
        """
        pictures = self._jobs.popleft()
        until = time.perf_counter()

        def between() -> bool:
            nonlocal until
            if time.perf_counter() < until and not called():
                return True
            spent = step()
            share = float("inf") if spent is None else max(self._target - spent, spent / 2)
            until = time.perf_counter() + share
            return any(map(wanted, pictures))

        results: list[EncodeDone] = self._cuts.run(
            lambda: list(encode_pictures(self._encode, pictures)), between
        )
        results = [replace(d, seconds=d.seconds - self._cuts.seconds_away) for d in results]
        if self._cuts.ended:
            return [replace(d, rows=None, error="nobody waits for it any more") for d in results]
        return results
