"""Finds what a prompt has in common with another one behind the place where they part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from server.engine.request import ImageRun, Picture, Request, ShiftedRun
from server.engine.scheduling.prompt_keys import Keys, common_prefix

Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_SECOND_KEY = 0xC2B2AE3D27D4EB4F
# Text that repeats itself is found in many places: so many are compared for one place, and so many
# places for one prompt.
_MOST_CANDIDATES, _MOST_PLACES = 8, 256


class RunFinder:
    """Finds runs of at least ``least`` tokens of ``wanted`` in other prompts.

    Runs keep their order and never cut a picture. A token that is computed comes before each, also
    where two runs meet: llama.cpp rotates shifted keys with the next batch, and only cells with
    rotated keys may be shared or copied. The prompt's last token is computed for its logits.
    """

    def __init__(self, wanted: Request, least: int) -> None:
        self._keys = wanted.keys
        self._least = least
        self._first = wanted.num_computed + 1
        self._end = len(wanted.keys) - 1
        self._pictures = list(_places_of_pictures(wanted))
        self._hashes = window_hashes(wanted.keys[: self._end], least)

    def runs_in(self, source: Keys) -> list[ShiftedRun]:
        """The runs that ``source`` has too, from left to right."""
        hashes = window_hashes(source, self._least)
        if not len(hashes) or not len(self._hashes):
            return []
        order = np.argsort(hashes, kind="stable")
        left = np.searchsorted(hashes[order], self._hashes, "left")
        right = np.searchsorted(hashes[order], self._hashes, "right")
        places = np.flatnonzero(right > left)
        runs: list[ShiftedRun] = []
        at, source_at = self._first, 0
        for _ in range(_MOST_PLACES):
            at = self._after_picture(at)
            following = int(np.searchsorted(places, at))
            if following == len(places):
                break
            if (place := int(places[following])) > at:
                at = place
                continue  # which may lie within a picture
            found = order[left[at] : right[at]]
            run = self._longest(source, at, found[found >= source_at][:_MOST_CANDIDATES])
            if run is not None:
                runs.append(run)
                source_at = run.source_end
            at = at + 1 if run is None else run.end + 1
        return runs

    def _longest(self, source: Keys, start: int, places: NDArray[np.int64]) -> ShiftedRun | None:
        best = None
        for place in places.tolist():
            same = common_prefix(source[place:], self._keys[start : self._end])
            count = self._before_picture(start + same) - start
            if count >= self._least and (best is None or count > best.count):
                best = ShiftedRun(place, start, count)
        return best

    def _after_picture(self, index: int) -> int:
        return next((end for start, end in self._pictures if start < index < end), index)

    def _before_picture(self, index: int) -> int:
        return next((start for start, end in self._pictures if start < index < end), index)


def _places_of_pictures(request: Request) -> Iterator[tuple[int, int]]:
    """Where each picture begins and ends; with its tiles, and what stands between them."""
    start = 0
    found: dict[Picture, tuple[int, int]] = {}
    for run in request.runs:
        if isinstance(run, ImageRun):
            first, _ = found.get(run.picture, (start, 0))
            found[run.picture] = first, start + run.size
        start += run.size
    yield from found.values()


def window_hashes(keys: Keys, size: int) -> Hashes:
    """A hash of each ``size`` positions that follow each other, uint64 [n - size + 1].

    Polynomials modulo 2**64 by prefix sums, so that NumPy computes them all at once; equal ones are
    compared by their keys.
    """
    if len(keys) < size:
        return np.empty(0, np.uint64)
    values = keys.astype(np.uint64)
    tokens = values[:, 0] + values[:, 1] * np.uint64(_SECOND_KEY)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(tokens * _powers(_BASE, len(keys)))])
    windows: Hashes = (sums[size:] - sums[:-size]) * _powers(_INVERSE, len(keys) - size + 1)
    return windows


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)
