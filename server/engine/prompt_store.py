"""Prompts that have left the KV cache: their cells are in the RAM until somebody goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.engine.keys import Keys, common_prefix

_FIRST_GUESS = 0.5e-9
_WEIGHT = 0.2


@dataclass(slots=True, eq=False)
class StoredPrompt:
    """``state``: the cells of one sequence as llama.cpp writes them, uint8 [n]; None until then.

    ``size`` is in bytes, estimated until they are there.
    """

    keys: Keys
    blocks: tuple[int, ...]
    size: int
    last_used: int = 0
    state: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class PromptStore:
    """At most ``most_bytes`` of prompts, least recently used first out; ``cell_bytes`` is a guess.

    Prompts are looked up by blocks of ``block`` positions, as vLLM's prefix cache has them. It is
    also the least that is worth a copy, which is a hundred times as fast as computing but has a
    fixed cost. ``byte_seconds`` is what copying a byte takes, as seen so far.
    """

    most_bytes: int = 0
    cell_bytes: int = 1
    block: int = 32
    n_bytes: int = 0
    hits: int = 0
    byte_seconds: float = _FIRST_GUESS
    prompts: list[StoredPrompt] = field(default_factory=list)
    _index: dict[int, StoredPrompt] = field(default_factory=dict)
    _clock: itertools.count[int] = field(default_factory=itertools.count)

    def seconds(self, cells: int) -> float:
        """How long so many cells are likely to take from one memory to the other."""
        return cells * self.cell_bytes * self.byte_seconds

    def add(self, keys: Keys, *, replaces: bool = True) -> StoredPrompt | None:
        """A place for a prompt, which its cells are to be copied to; None where it is not worth it.

        Prompts that this one goes on from are superfluous then, unless ``replaces`` says no.
        """
        size = len(keys) * self.cell_bytes
        if len(keys) < self.block or size > self.most_bytes:
            return None
        new = StoredPrompt(keys, tuple(_blocks(keys, self.block)), size, next(self._clock))
        if replaces:
            for old in [each for each in self.prompts if _begins(each, new)]:
                self._drop(old)
        self._put(new)
        while self.n_bytes > self.most_bytes:
            self._drop(min(self.prompts, key=lambda prompt: prompt.last_used))
        return new

    def fill(self, prompt: StoredPrompt, state: NDArray[np.uint8]) -> None:
        """The cells are there; a prompt that was dropped meanwhile stays so."""
        if prompt in self.prompts:
            self.n_bytes += state.nbytes - prompt.size
            prompt.size, prompt.state = state.nbytes, state

    def copied(self, n_bytes: int, seconds: float) -> None:
        """So many bytes took so long, in whichever direction."""
        self.byte_seconds += _WEIGHT * (seconds / n_bytes - self.byte_seconds)

    def find(self, keys: Keys, usable: Callable[[StoredPrompt], int]) -> StoredPrompt | None:
        """A prompt that shares the longest beginning with ``keys``, in whole blocks.

        ``usable``: how many positions of it are of use; those without any are passed over.
        """
        found = None
        for block in _blocks(keys, self.block) if self.prompts else ():
            prompt = self._index.get(block)
            if prompt is None:
                break
            if prompt.state is not None and usable(prompt) >= self.block:
                found = prompt
        return found

    def touch(self, prompt: StoredPrompt, count: int) -> None:
        """So many positions of it are about to be used."""
        prompt.last_used = next(self._clock)
        self.hits += count

    def covers(self, keys: Keys, *, exact: bool = False) -> bool:
        """Whether a prompt begins with all of ``keys``, and ends with them if ``exact``."""
        blocks = tuple(_blocks(keys, self.block))
        prompt = self._index.get(blocks[-1]) if blocks else None
        if prompt is None or (exact and len(prompt.keys) != len(keys)):
            return False
        return common_prefix(prompt.keys, keys) == len(keys)

    def discard(self, prompt: StoredPrompt) -> None:
        """It could not be copied."""
        if prompt in self.prompts:
            self._drop(prompt)

    def _put(self, prompt: StoredPrompt) -> None:
        self.prompts.append(prompt)
        self.n_bytes += prompt.size
        for block in prompt.blocks:
            self._index[block] = prompt

    def _drop(self, prompt: StoredPrompt) -> None:
        self.prompts.remove(prompt)
        self.n_bytes -= prompt.size
        lost = {block for block in prompt.blocks if self._index.get(block) is prompt}
        for block in lost:
            del self._index[block]
        for other in self.prompts:  # those that share its beginning are found by it again
            for block in lost.intersection(other.blocks):
                self._index[block] = other


def _blocks(keys: Keys, size: int) -> Iterator[int]:
    """A hash of each whole block and of all before it. Whoever finds by it compares the keys."""
    before = 0
    for start in range(0, len(keys) - size + 1, size):
        before = hash((before, keys[start : start + size].tobytes()))
        yield before


def _begins(old: StoredPrompt, new: StoredPrompt) -> bool:
    n_blocks = len(old.blocks)
    return old.blocks == new.blocks[:n_blocks] and common_prefix(old.keys, new.keys) == len(
        old.keys
    )
