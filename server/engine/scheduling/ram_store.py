"""Prompts that have left the KV cache: their cells stay in the RAM until a request needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.engine.scheduling.eviction import EvictionPolicy, make_policy
from server.engine.scheduling.prompt_keys import Keys, begins_with, common_prefix

_FIRST_GUESS = 0.5e-9
_WEIGHT = 0.2


@dataclass(slots=True, eq=False)
class StoredPrompt:
    """``state``: the cells of one sequence as llama.cpp writes them, uint8 [n]; None until then.

    ``size`` is in bytes, estimated until they are there. A ``checkpoint`` has only the cells of a
    sliding window, as they were when the sequence had just these positions.
    """

    keys: Keys
    blocks: tuple[int, ...]
    size: int
    last_used: int = 0
    state: NDArray[np.uint8] | None = None
    checkpoint: bool = False


@dataclass(slots=True)
class PromptStore:
    """At most ``most_bytes`` of prompts, evicted as ``policy`` says; ``cell_bytes`` is a guess.

    Prompts are looked up by blocks of ``block`` positions, as vLLM's prefix cache has them. It is
    also the least that is worth a copy, which is a hundred times as fast as computing but has a
    fixed cost. The time to copy a byte is measured for each direction.
    """

    most_bytes: int = 0
    cell_bytes: int = 1
    block: int = 32
    n_bytes: int = 0
    hits: int = 0
    policy: EvictionPolicy = field(default_factory=make_policy)
    prompts: list[StoredPrompt] = field(default_factory=list)
    _out_seconds: float = _FIRST_GUESS
    _in_seconds: float = _FIRST_GUESS
    _index: dict[int, list[StoredPrompt]] = field(default_factory=dict)

    def seconds_out(self, cells: int) -> float:
        """How long it is likely to take to copy so many cells to the RAM."""
        return cells * self.cell_bytes * self._out_seconds

    def seconds_in(self, prompt: StoredPrompt) -> float:
        """How long it is likely to take to copy a prompt back."""
        return prompt.size * self._in_seconds

    def seconds_to_and_from(self, cells: int) -> float:
        """How long it is likely to take to copy so many cells to the RAM and back."""
        return cells * self.cell_bytes * (self._out_seconds + self._in_seconds)

    def blocks(self, keys: Keys) -> tuple[int, ...]:
        """What prompts are looked up by: nothing where none are kept."""
        return tuple(_blocks(keys, self.block)) if self.most_bytes else ()

    def add(self, keys: Keys, *, replaces: bool = True) -> StoredPrompt | None:
        """A place for a prompt, which its cells are to be copied to; None where it is not worth it.

        Prompts that this one goes on from are superfluous then, unless ``replaces`` says no.
        """
        size = len(keys) * self.cell_bytes
        if len(keys) < self.block or size > self.most_bytes:
            return None
        new = StoredPrompt(keys, self.blocks(keys), size)
        if replaces:
            whole = [each for each in self.prompts if not each.checkpoint]
            for old in [each for each in whole if begins_with(keys, each.keys)]:
                self.drop(old)
        self._insert(new)
        return new

    def add_checkpoint(self, keys: Keys, window: int) -> StoredPrompt | None:
        """A place for the window's cells after these positions; None if it has them, or no room."""
        size = min(len(keys), window) * self.cell_bytes
        blocks = self.blocks(keys)
        if not blocks or size > self.most_bytes:
            return None
        if any(_same(each, keys) for each in self._index.get(blocks[-1], ())):
            return None
        new = StoredPrompt(keys, blocks, size, checkpoint=True)
        self._insert(new)
        return new

    def _insert(self, new: StoredPrompt) -> None:
        self.policy.use(new)
        self.prompts.append(new)
        self.n_bytes += new.size
        for block in new.blocks:
            self._index.setdefault(block, []).append(new)
        self._shrink()

    def fill(self, prompt: StoredPrompt, state: NDArray[np.uint8], seconds: float) -> None:
        """Its cells were copied, which took so long."""
        self._out_seconds += _WEIGHT * (seconds / state.nbytes - self._out_seconds)
        self.n_bytes += state.nbytes - prompt.size
        prompt.size, prompt.state = state.nbytes, state
        self._shrink()

    def copied_back(self, prompt: StoredPrompt, seconds: float) -> None:
        """Its cells were copied back, which took so long; the copy stays for others."""
        self._in_seconds += _WEIGHT * (seconds / prompt.size - self._in_seconds)

    def find(
        self, blocks: Sequence[int], gain: Callable[[StoredPrompt], int]
    ) -> tuple[StoredPrompt | None, int]:
        """A prompt that shares most of the whole blocks of another one, and its gain.

        ``gain``: how many positions would be won with it. Those with too few are passed over.
        """
        seen: set[StoredPrompt] = set()
        for block in reversed(blocks):
            new = [prompt for prompt in self._index.get(block, ()) if prompt not in seen]
            seen.update(new)
            copied = [each for each in new if each.state is not None and not each.checkpoint]
            gains = [(gain(prompt), prompt) for prompt in copied]
            won, best = max(gains, key=lambda each: each[0], default=(0, None))
            if won >= self.block:
                return best, won
        return None, 0

    def checkpoints(self, keys: Keys, blocks: Sequence[int]) -> list[tuple[int, StoredPrompt]]:
        """Checkpoints for a prompt with these keys, and for how many positions; the most first.

        Those are all of its own, or one less: then the last one, which has to be computed for its
        logits, sees what it should.
        """
        found: dict[StoredPrompt, int] = {}
        for block in blocks:
            for each in self._index.get(block, ()):
                if each.checkpoint and each.state is not None and each not in found:
                    count = min(common_prefix(each.keys, keys), len(keys) - 1)
                    if count >= len(each.keys) - 1:
                        found[each] = count
        return sorted(((n, each) for each, n in found.items()), key=lambda one: -one[0])

    def touch(self, prompt: StoredPrompt, count: int) -> None:
        """So many positions of it are about to be used."""
        self.policy.use(prompt)
        self.hits += count

    def covers(self, keys: Keys, *, exact: bool = False) -> bool:
        """Whether a prompt begins with all of ``keys``, and ends with them if ``exact``."""
        blocks = self.blocks(keys)
        return bool(blocks) and any(
            begins_with(prompt.keys, keys) and (not exact or len(prompt.keys) == len(keys))
            for prompt in self._index.get(blocks[-1], ())
            if not prompt.checkpoint
        )

    def _shrink(self) -> None:
        while self.n_bytes > self.most_bytes:
            self.drop(self.policy.victim(self.prompts))

    def drop(self, prompt: StoredPrompt) -> None:
        """Removes a prompt that is no longer of use, or could not be copied."""
        self.prompts.remove(prompt)
        self.n_bytes -= prompt.size
        for block in prompt.blocks:
            self._index[block].remove(prompt)
            if not self._index[block]:
                del self._index[block]

    def check_integrity(self) -> None:
        """Raises RuntimeError where sizes or index do not agree with the prompts."""
        if self.n_bytes != sum(prompt.size for prompt in self.prompts):
            raise RuntimeError(f"{self.n_bytes} bytes are counted, which is not the prompts' sum")
        indexed = [(block, prompt) for block, found in self._index.items() for prompt in found]
        expected = [(block, prompt) for prompt in self.prompts for block in prompt.blocks]
        if len(indexed) != len(expected) or set(indexed) != set(expected):
            raise RuntimeError("the index has other prompts than the store")


def _same(one: StoredPrompt, keys: Keys) -> bool:
    return one.checkpoint and len(one.keys) == len(keys) and begins_with(one.keys, keys)


def _blocks(keys: Keys, size: int) -> Iterator[int]:
    """A hash of each whole block and of all before it; lookups compare the keys as well."""
    before = 0
    for start in range(0, len(keys) - size + 1, size):
        before = hash((before, keys[start : start + size].tobytes()))
        yield before
