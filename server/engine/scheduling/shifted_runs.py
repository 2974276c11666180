"""Finds what a prompt has in common with another one behind the place where they part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from server.engine.request import ImageSegment, Picture, Request, ShiftedRun
from server.engine.scheduling.prompt_keys import Keys, common_prefix

Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_SECOND_KEY = 0xC2B2AE3D27D4EB4F
# Text that repeats itself is found in many places: so many are compared for one block, and so many
# blocks for one prompt.
_MOST_PLACES, _MOST_COMPARED = 8, 256


class RunFinder:
    """Finds runs of at least ``least`` tokens of ``wanted`` in other prompts.

    Runs keep their order and never cut a picture. A token that is computed comes before each, also
    where two runs meet: llama.cpp rotates shifted keys with the next batch, and only cells with
    rotated keys may be shared or copied. The prompt's last token is computed for its logits.

    A run of the least size has a whole block of half of it, counted from the other prompt's
    beginning. So only these are looked up, which takes 15 ms for 100,000 tokens instead of 110.
    """

    def __init__(self, wanted: Request, least: int) -> None:
        self._keys = wanted.keys
        self._least = least
        self._block = (least + 1) // 2
        self._first = wanted.num_computed + 1
        self._end = len(wanted.keys) - 1
        self._pictures = list(_places_of_pictures(wanted))
        hashes = window_hashes(wanted.keys[: self._end], self._block)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def runs_in(self, source: Keys) -> list[ShiftedRun]:
        """The runs that ``source`` has too, from left to right."""
        places, source_places = self._equal_blocks(source)
        runs: list[ShiftedRun] = []
        at, source_at, block = self._first, 0, 0
        for _ in range(_MOST_COMPARED):
            block = max(block, int(np.searchsorted(places, at)))
            if block == len(places):
                break
            after = int(np.searchsorted(places, places[block], "right"))
            found = [
                self._extend(source, source_place, source_at, int(places[block]), at)
                for source_place in source_places[block:after][:_MOST_PLACES].tolist()
                if source_place >= source_at
            ]
            run = max(found, key=lambda each: each.count, default=None)
            if run is not None and run.count >= self._least:
                runs.append(run)
                at, source_at = run.end + 1, run.source_end
            block = after
        return runs

    def _equal_blocks(self, source: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where blocks of ``source`` are in the wanted prompt, ascending, and in ``source``."""
        hashes = window_hashes(source, self._block)[:: self._block]
        left = np.searchsorted(self._hashes, hashes, "left")
        right = np.searchsorted(self._hashes, hashes, "right")
        counts = np.minimum(right - left, _MOST_PLACES)
        firsts = np.repeat(left - np.cumsum(counts) + counts, counts)
        places = self._order[firsts + np.arange(counts.sum())]
        source_places = np.repeat(np.arange(len(hashes)) * self._block, counts)
        order = np.argsort(places, kind="stable")
        return places[order], source_places[order]

    def _extend(
        self, source: Keys, source_place: int, source_at: int, place: int, at: int
    ) -> ShiftedRun:
        """The longest run around two places, from ``at`` and ``source_at`` on."""
        before = common_prefix(source[source_at:source_place][::-1], self._keys[at:place][::-1])
        same = common_prefix(source[source_place:], self._keys[place : self._end])
        start = self._after_picture(place - before)
        end = max(self._before_picture(place + same), start)
        return ShiftedRun(source_place - place + start, start, end - start)

    def _after_picture(self, index: int) -> int:
        return next((end for start, end in self._pictures if start < index < end), index)

    def _before_picture(self, index: int) -> int:
        return next((start for start, end in self._pictures if start < index < end), index)


def _places_of_pictures(request: Request) -> Iterator[tuple[int, int]]:
    """Where each picture begins and ends; with its tiles, and what stands between them."""
    start = 0
    found: dict[Picture, tuple[int, int]] = {}
    for segment in request.segments:
        if isinstance(segment, ImageSegment):
            first, _ = found.get(segment.picture, (start, 0))
            found[segment.picture] = first, start + segment.size
        start += segment.size
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
