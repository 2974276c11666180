"""Which sequence already holds the beginning of a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.engine.request import ImageRun, Request, Run

Keys = NDArray[np.int64]

# A picture's positions get keys above all token ids; their number counts in the low bits.
_PICTURE, _INDEX = 1 << 62, 0xFFFF
_WORTH_WAITING = 16


def keys_of(runs: Sequence[Run], output_tokens: Sequence[int] = ()) -> Keys:
    """What stands in each position, int64 [n, 2]: a token's id, or a picture's hash and place.

    Two prompts with the same keys have the same embeddings. Of the picture's SHA-256, which
    covers its bytes and its preprocessing, 110 bits go in: nobody can make a picture that
    passes for somebody else's.
    """
    tokens = np.zeros((len(output_tokens), 2), np.int64)
    tokens[:, 0] = output_tokens
    return np.concatenate([*map(_keys_of_run, runs), tokens])


def _keys_of_run(run: Run) -> Keys:
    keys = np.zeros((run.size, 2), np.int64)
    if isinstance(run, ImageRun):
        digest = int(run.picture.image.digest, 16)
        places = np.arange(run.first_row, run.first_row + run.size)
        keys[:, 0] = (_PICTURE | (digest & (_PICTURE - 1) & ~_INDEX)) + places
        keys[:, 1] = digest >> 62 & (_PICTURE * 2 - 1)
    else:
        keys[:, 0] = run.tokens
    return keys


def common_prefix(one: Keys, other: Keys) -> int:
    """How many positions two key arrays share from the start.

    Called for each waiting request and each sequence, in every step: argmax stops at the first
    difference, and a row of two needs no axis of its own.
    """
    size = min(len(one), len(other))
    if not size:
        return 0
    different = one[:size].ravel() != other[:size].ravel()
    first = int(different.argmax())
    return first // 2 if different[first] else size


def worth_waiting(keys: Keys) -> bool:
    """Whether it is better to wait until another request has computed these positions.

    A picture always: it is encoded and prefilled once. A few tokens of text are computed
    faster in one batch with others than one after the other.
    """
    return len(keys) >= _WORTH_WAITING or bool((keys[:, 0] >= _PICTURE).any())


@dataclass(slots=True, eq=False)
class Entry:
    """A finished sequence that is kept for those that begin as it did."""

    seq_id: int
    keys: Keys
    last_used: int = 0


@dataclass(slots=True, frozen=True)
class Match:
    """The first ``count`` positions of a prompt are in ``seq_id``; ``entry`` if that is idle."""

    seq_id: int = -1
    count: int = 0
    entry: Entry | None = None


@dataclass(slots=True)
class PrefixCache:
    """The idle sequences, least recently used first out.

    Compared one by one: with at most 256 sequences an array comparison each is faster, and far
    simpler, than walking a tree of Python objects.

    They are not free of cost: every step goes through all cells up to the last used one, and skips
    those of other sequences one by one. So all of them together may have ``most_cells``, and beyond
    that there may be as many as there are free slots: then each slot still has its last prompt.

    Without ``shares`` nothing is kept, for this model's cells cannot be given to another sequence.
    ``window``: with a sliding one, llama.cpp writes over cells that have left it. What is surely
    there is all of a sequence that never was as long, and the end of any other.
    """

    window: int = 0
    shares: bool = True
    most_cells: int = 2048
    entries: list[Entry] = field(default_factory=list)
    _clock: itertools.count[int] = field(default_factory=itertools.count)

    def add(self, seq_id: int, keys: Keys) -> list[Entry]:
        """Keeps a sequence; returns the entries that it makes superfluous, now removed."""
        covered = [
            entry
            for entry in self.entries
            if common_prefix(entry.keys, keys) == len(entry.keys)
            and self.has(len(keys), len(entry.keys))
        ]
        for entry in covered:
            self.entries.remove(entry)
        self.entries.append(Entry(seq_id, keys, next(self._clock)))
        return covered

    def crowd(self, cells: int, slots: int) -> bool:
        """Whether idle sequences, of so many cells, are more than is kept beside free slots."""
        return cells > self.most_cells and len(self.entries) > slots

    def pop_oldest(self) -> Entry:
        """Removes the entry that was of use the longest time ago."""
        oldest = min(self.entries, key=lambda entry: entry.last_used)
        self.entries.remove(oldest)
        return oldest

    def find(self, wanted: Request, running: Iterable[Request]) -> Match:
        """The longest prefix that is computed already, in an idle or a running sequence.

        The last token of a prompt is never taken: it has to be computed for its logits. Of a
        picture that cannot be divided, all is taken or nothing. Who wants the prompt computed anew
        takes nothing, but its own where it was preempted.
        """
        best, limit = Match(), len(wanted.keys) - 1
        if not self.shares or wanted.pool is not None:
            return best  # a pooled one's states have to be computed, whoever else has done so
        if not wanted.sampling.cache_prompt and not wanted.output_tokens:
            return best
        for entry in self.entries:
            count = wanted.shareable(min(common_prefix(entry.keys, wanted.keys), limit))
            if count > best.count and self.has(len(entry.keys), count):
                best = Match(entry.seq_id, count, entry)
        for request in running:
            shared = common_prefix(request.keys[: request.num_computed], wanted.keys)
            count = wanted.shareable(min(shared, limit))
            if count > best.count and self.has(request.num_computed, count):
                best = Match(request.seq_id, count)
        return best

    def soon(self, wanted: Request, running: Iterable[Request]) -> int:
        """How much of the prompt running requests have begun to compute."""
        if not self.shares or wanted.pool is not None or not wanted.sampling.cache_prompt:
            return 0
        prefilling = (
            request
            for request in running
            if request.num_computed < request.num_prompt and self.has(request.num_prompt, 0)
        )
        shared = (common_prefix(request.keys, wanted.keys) for request in prefilling)
        return min(max(shared, default=0), wanted.num_prompt - 1)

    def has(self, length: int, count: int) -> bool:
        """Whether a sequence of ``length`` still has all that goes on after its first ``count``."""
        return not self.window or length < self.window or count == length

    def touch(self, entry: Entry) -> None:
        """The entry was of use just now."""
        entry.last_used = next(self._clock)
