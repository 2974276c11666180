"""Encodes pictures in a thread, or in slices between steps, so that no stream waits for them."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engine.cpu_cores import unbind
from server.engine.heartbeat import CurrentWork, TimeEstimate, Work
from server.engine.request import Picture
from server.errors import ImageError
from server.messages import ImageInput

# Where decode and encode want the same cores, decode is served first.
_NICENESS = 5
# Seconds that a square may take of which nothing is known.
_FIRST_SQUARE = 30.0

Encode = Callable[[Sequence[ImageInput]], list[NDArray[np.float32]]]


@dataclass(slots=True, frozen=True)
class EncodeDone:
    """The result for ``picture``: its rows, float32 [n_tokens, n_embd], or what went wrong.

    ``refused``: the picture is at fault, and the request that sent it. ``start`` is
    ``time.monotonic()``. Pictures that were encoded together took ``seconds`` together.
    ``kept``: the rows were on disk, nothing was encoded.
    """

    picture: Picture
    rows: NDArray[np.float32] | None
    error: str
    seconds: float
    start: float = 0.0
    kept: bool = False
    refused: bool = False


class EncodeThread:
    """Encodes what is submitted together in one go, one after the other otherwise.

    ``done`` is called with the result for each picture, in this thread.
    """

    def __init__(self, encode: Encode, done: Callable[[EncodeDone], None]) -> None:
        self._encode = encode
        self._done = done
        self.work = CurrentWork()
        self._estimate = TimeEstimate()
        self._jobs: queue.SimpleQueue[list[Picture] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)
        self._thread.start()

    def submit(self, pictures: list[Picture]) -> None:
        """Queues pictures; returns at once."""
        self._jobs.put(pictures)

    def close(self) -> None:
        """Waits for the pictures in work, if any, and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        unbind()
        # On Linux a priority is a thread's, and OpenMP's threads inherit it from this one.
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (pictures := self._jobs.get()) is not None:
            for done in self._timed(pictures):
                self._done(done)

    def _timed(self, pictures: list[Picture]) -> list[EncodeDone]:
        squares = sum(max(picture.image.n_squares, picture.n_tiles) for picture in pictures)
        size = pixels(pictures)
        expected = self._estimate.expected(size, squares * _FIRST_SQUARE)
        self.work["encoder"] = Work("encode", time.monotonic(), expected)
        results = list(encode_pictures(self._encode, pictures))
        self._estimate.observe(results[-1].seconds, size)
        self.work.pop("encoder", None)
        return results


def pixels(pictures: Sequence[Picture]) -> int:
    """All that the tower sees of pictures that are encoded together."""
    images = [picture.image for picture in pictures]
    return sum(image.width * image.height * image.n_squares for image in images)


def encode_pictures(encode: Encode, pictures: Sequence[Picture]) -> Iterator[EncodeDone]:
    """Encodes pictures together, here and now. A failure is a result: other requests go on.

    If it fails, each is tried alone, so that only its own request fails.
    """
    start = time.monotonic()
    try:
        rows = encode([picture.image for picture in pictures])
    except (RuntimeError, ValueError, ImageError) as failure:
        if len(pictures) == 1:
            seconds, refused = time.monotonic() - start, isinstance(failure, ImageError)
            yield EncodeDone(pictures[0], None, str(failure), seconds, start, refused=refused)
            return
        for picture in pictures:
            yield from encode_pictures(encode, [picture])
        return
    seconds = time.monotonic() - start
    for picture, its_rows in zip(pictures, rows, strict=True):
        if len(its_rows) == picture.n_tokens:
            yield EncodeDone(picture, its_rows, "", seconds, start)
        else:
            counted = f"counted {picture.n_tokens} picture tokens, encoded {len(its_rows)}"
            yield EncodeDone(picture, None, counted, seconds, start)


# Seconds from one cut to the next in an encode of which nothing is known.
_FIRST_PIECE = 30.0


class Interruptible(Protocol):
    """Runs an encode and calls something at cuts within it (server.engine.llama.ggml)."""

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
        self.jobs: deque[list[Picture]] = deque()
        self._size = 0
        self._is_cut = False
        self._estimate = TimeEstimate()

    @property
    def expected(self) -> float:
        """Seconds that the encode at hand, or next, may take to its next cut."""
        return self._estimate.expected(self._size or pixels(self.jobs[0]), _FIRST_PIECE)

    def submit(self, pictures: list[Picture]) -> None:
        """Queues pictures, to be encoded together."""
        self.jobs.append(pictures)

    def close(self) -> None:
        """Nothing runs but within ``encode_next``."""
        self.jobs.clear()

    def _took(self, seconds: float) -> None:
        """A slice of the encode at hand is done. The longest of each encode is remembered."""
        self._estimate.observe(seconds, self._size, part=self._is_cut)
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
        pictures = self.jobs.popleft()
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
            return [replace(d, rows=None, error="no request waits for it") for d in results]
        return results
