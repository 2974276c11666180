"""Pictures are encoded in slices, with the others' steps between, where both need the processor."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from server.engine.encoding import Encode, EncodeDone, encode_pictures, pixels
from server.engine.longest import Longest
from server.engine.request import Picture

# Seconds from one cut to the next in an encode of which nothing is known.
_FIRST_PIECE = 30.0


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
        self._size = 0
        self._is_cut = False
        self._longest = Longest()

    @property
    def expected(self) -> float:
        """Seconds that the encode at hand, or next, may take to its next cut."""
        return self._longest.expected(self._size or pixels(self._jobs[0]), _FIRST_PIECE)

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

    def _took(self, seconds: float) -> None:
        """A slice of the encode at hand is done. The longest of each encode is remembered."""
        self._longest.took(seconds, self._size, part=self._is_cut)
        self._is_cut = True

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
        self._size = pixels(pictures)
        until = begun = time.perf_counter()

        def between() -> bool:
            nonlocal until, begun
            now = time.perf_counter()
            self._took(now - begun)
            begun = now
            if not called() and now < until:
                return True
            spent = step()
            share = float("inf") if spent is None else max(self._target - spent, spent / 2)
            begun = time.perf_counter()
            until = begun + share
            return any(map(wanted, pictures))

        results: list[EncodeDone] = self._cuts.run(
            lambda: list(encode_pictures(self._encode, pictures)), between
        )
        self._took(time.perf_counter() - begun)
        self._size, self._is_cut = 0, False
        results = [replace(d, seconds=d.seconds - self._cuts.seconds_away) for d in results]
        if self._cuts.ended:
            return [replace(d, rows=None, error="nobody waits for it any more") for d in results]
        return results
