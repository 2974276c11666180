"""What one step does, and how long it may take.

The scheduler decides it, the core and the runner carry it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.engine.request import Picture, Request, ShiftedRun
from server.engine.scheduling.ram_store import StoredPrompt


@dataclass(slots=True, frozen=True)
class Chunk:
    """Tokens ``start`` to ``start + count`` of a request, all within one segment of it.

    ``sample``: with them the request is up to date, and its next token is to be sampled.
    """

    request: Request
    start: int
    count: int
    sample: bool


@dataclass(slots=True, frozen=True)
class Forget:
    """Free the cells of a sequence."""

    seq_id: int


@dataclass(slots=True, frozen=True)
class Share:
    """Let ``target`` have the first ``count`` tokens of ``source``, before position ``end``."""

    source: int
    target: int
    count: int
    end: int


@dataclass(slots=True, frozen=True)
class SwapOut:
    """Copy the cells of a sequence to the RAM."""

    seq_id: int
    prompt: StoredPrompt


@dataclass(slots=True, frozen=True)
class SwapIn:
    """Copy a prompt's cells from the RAM to an empty sequence, those before position ``end``.

    For a moment it takes cells for all of the prompt.
    """

    prompt: StoredPrompt
    seq_id: int
    end: int


@dataclass(slots=True, frozen=True)
class SaveWindow:
    """Copy a sequence's sliding window to the RAM, if all that position ``first`` on is there."""

    seq_id: int
    checkpoint: StoredPrompt
    first: int


@dataclass(slots=True, frozen=True)
class RestoreWindow:
    """Replace a sequence's sliding window by that of a checkpoint, before position ``end``."""

    checkpoint: StoredPrompt
    seq_id: int
    end: int


@dataclass(slots=True)
class CellCopy:
    """Some cells of a sequence as llama.cpp writes them, uint8 [n]; None until they are copied."""

    state: NDArray[np.uint8] | None = None


@dataclass(slots=True, frozen=True)
class CopyRuns:
    """Copy cells of ``source`` to the RAM, with the empty sequence ``seq_id`` as a help."""

    source: int
    seq_id: int
    runs: tuple[ShiftedRun, ...]
    copy: CellCopy


@dataclass(slots=True, frozen=True)
class PlaceRuns:
    """Give the empty ``seq_id`` cells of its own for these runs of a copy, and shift them.

    For a moment it takes cells for all that is in the copy.
    """

    copy: CellCopy | StoredPrompt
    seq_id: int
    runs: tuple[ShiftedRun, ...]


@dataclass(slots=True, frozen=True)
class JoinRun:
    """Let ``target`` have the cells of a run, which ``source`` has in their places already."""

    source: int
    target: int
    run: ShiftedRun


CacheChange = (
    Forget | Share | SwapOut | SwapIn | SaveWindow | RestoreWindow | CopyRuns | PlaceRuns | JoinRun
)


@dataclass(slots=True)
class StepPlan:
    """One step. Executed in this order: cache changes, the encodes begun, both kinds of chunks.

    llama.cpp takes token ids or embeddings in a batch, never both, hence two batches; a chunk
    of pictures may follow a chunk of text of the same request within a step. Where a model's tokens
    can be given as embeddings (token_embeddings), ``tokens`` holds chunks of both kinds, of
    each request in order, and ``pictures`` none or all but the decodes. ``pooled`` chunks go one by
    one: every row of them has an output, which is pooled or scored. ``copying``: what the cache
    changes may take, in seconds; ``shifting``: what they may add to the first batch, if anything.
    """

    cache: list[CacheChange] = field(default_factory=list)
    copying: float = 0.0
    shifting: float | None = None
    encode: list[Picture] = field(default_factory=list)
    tokens: list[Chunk] = field(default_factory=list)
    pictures: list[Chunk] = field(default_factory=list)
    pooled: list[Chunk] = field(default_factory=list)

    def divide(self, n_decodes: int, most: int) -> None:
        """Leaves ``n_decodes`` chunks by themselves where all have more rows than ``most`` > 0."""
        if n_decodes and 0 < most < sum(chunk.count for chunk in self.tokens):
            self.tokens, self.pictures = self.tokens[:n_decodes], self.tokens[n_decodes:]

    @property
    def idle(self) -> bool:
        """Whether the step computes nothing: every request waits for a picture's encode."""
        return not (self.tokens or self.pictures or self.pooled)


# llama.cpp's cost per position hardly falls below this many in a batch (measured, see docs).
SMALLEST_CHUNK = 16
_WEIGHT = 0.2


class Pace:
    """Bounds prefill chunks by time: a step of ``target`` seconds, at the speed seen so far."""

    def __init__(self, target: float, positions_per_second: float) -> None:
        self.target = target
        self.speed = positions_per_second
        self.decode_seconds = 0.0
        # A slice of an encode came before this step, so it is for decodes only.
        self.hurried = False

    @property
    def chunk(self) -> int:
        """Positions that take what decodes leave of ``target``, but no fewer than make sense."""
        if self.hurried:
            return 0
        left = self.target - self.decode_seconds
        return max(SMALLEST_CHUNK, int(left * self.speed))

    def observe(self, positions: int, seconds: float) -> None:
        """A batch of so many positions took so long; small ones are decodes, not prefill."""
        self.hurried = self.hurried and not positions
        if positions >= SMALLEST_CHUNK and seconds > 0:
            self.speed += _WEIGHT * (positions / seconds - self.speed)
        elif positions:
            self.decode_seconds += _WEIGHT * (seconds - self.decode_seconds)
