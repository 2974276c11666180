"""One request inside the engine: its prompt, its tokens, and how far they are computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.positions import Positions
from server.errors import LlavaError
from server.messages import ImageInput, MemoryPeak, Pooling, TokenLogprob
from server.messages.sampling import SamplingParams


@dataclass(slots=True)
class Sample:
    """A token, and those that the request's grammar ``forced`` after it.

    ``ended``: the grammar allows nothing after them. With an ``error`` there is no token, and the
    request is over.
    """

    token: int
    logprob: TokenLogprob | None = None
    forced: tuple[int, ...] = ()
    ended: bool = False
    error: LlavaError | None = None


# Most tokens that a decode computes: the one that was sampled last, and those forced after it.
# llama.cpp's cost per row hardly falls beyond (measured, see docs).
MOST_DECODED = 16


# Every row of these batches brings its logits along, whether wanted or not (llama_set_embeddings):
# 64 rows keep them within the buffer that there is for 64 idle sequences and more.
MOST_ROWS = 64


@dataclass(slots=True, eq=False)
class Pool:
    """Sums rows [n, width] in double precision; ``vector`` is their mean, float32 [width]."""

    kind: Pooling
    count: int = 0
    _total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, rows: NDArray[np.float32]) -> None:
        """Takes rows in."""
        total = rows.sum(axis=0, dtype=np.float64)
        self._total = self._total + total if self.count else total
        self.count += len(rows)

    def clear(self) -> None:
        """Forgets all rows: they will be computed again."""
        self.count = 0

    @property
    def vector(self) -> NDArray[np.float32]:
        """The mean."""
        return (self._total / max(self.count, 1)).astype(np.float32)


@dataclass(slots=True, eq=False)
class PromptScores:
    """The log-probabilities of a prompt's tokens so far, each with the ``count`` most likely."""

    count: int
    tokens: list[TokenLogprob] = field(default_factory=list)


class RequestStatus(Enum):
    """WAITING for a sequence (also after a preemption), RUNNING on one, or FINISHED."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class TokenSegment:
    """A segment of prompt text: token ids, int32 [n]."""

    tokens: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Cells that the segment takes in the cache."""
        return len(self.tokens)

    @property
    def n_pos(self) -> int:
        """By how much positions grow over the segment."""
        return len(self.tokens)


@dataclass(slots=True, eq=False)
class Picture:
    """A picture of a prompt; ``rows`` is float32 [n_tokens, n_embd] once it is encoded.

    ``cached``: the rows came from the image cache. The grid is in tokens.
    """

    image: ImageInput
    n_tokens: int
    grid_width: int
    grid_height: int
    n_tiles: int = 1
    rows: NDArray[np.float32] | None = None
    encode_seconds: float = 0.0
    encode_start: float = 0.0
    cached: bool = False


@dataclass(slots=True)
class ImageSegment:
    """A picture's place in the prompt, or that of one of its tiles: ``n_tokens`` of its rows.

    ``whole``: the model attends to it in both directions, so it is computed in one batch.
    ``positions`` is None where they count up with the rows (all models but those with M-RoPE).
    """

    picture: Picture
    n_tokens: int
    first_row: int = 0
    whole: bool = False
    positions: Positions | None = None

    @property
    def size(self) -> int:
        """Cells that the segment takes in the cache."""
        return self.n_tokens

    @property
    def n_pos(self) -> int:
        """By how much positions grow over the segment."""
        return self.n_tokens if self.positions is None else self.positions.n_pos

    @property
    def divisible(self) -> bool:
        """Whether another request can use a part of it: M-RoPE's rows share their positions."""
        return not self.whole and self.positions is None


Segment = TokenSegment | ImageSegment


@dataclass(slots=True, frozen=True)
class ShiftedRun:
    """``count`` tokens of a prompt, ``start`` the first, which another one has at ``source``."""

    source: int
    start: int
    count: int

    @property
    def end(self) -> int:
        """The index after the last token."""
        return self.start + self.count

    @property
    def source_end(self) -> int:
        """The index after the last token, in the other prompt."""
        return self.source + self.count

    @property
    def shift(self) -> int:
        """By how much the positions grow."""
        return self.start - self.source


@dataclass(slots=True, eq=False)
class ShiftedRuns:
    """Copies of another prompt's cells, shifted to the positions that this prompt has them at.

    They wait in the sequence ``seq_id`` until the request is computed up to the next run, because
    llama.cpp computes no token before others of its sequence. The request has ``joined`` of them.
    """

    seq_id: int
    runs: tuple[ShiftedRun, ...]
    joined: int = 0

    @property
    def following(self) -> ShiftedRun | None:
        """The next run that the request will have."""
        return self.runs[self.joined] if self.joined < len(self.runs) else None

    @property
    def num_left(self) -> int:
        """Tokens of the runs that the request does not have yet."""
        return sum(run.count for run in self.runs[self.joined :])

    @property
    def num_tokens(self) -> int:
        """Tokens of all runs: the cells of the sequence."""
        return sum(run.count for run in self.runs)

    def holds(self, index: int) -> bool:
        """Whether the token there will not be computed, because a run has it."""
        return any(run.start <= index < run.end for run in self.runs[self.joined :])


@dataclass(slots=True, eq=False)
class Request:
    """A request's whole state.

    ``num_computed`` counts the tokens whose keys and values are in the cache. Prefill,
    decode and the recomputation after a preemption are all the same thing: the tokens
    from there up to ``num_tokens`` are still to be computed. ``num_cached`` tokens were
    taken from other sequences before the first one was sampled; ``keys`` say what the
    prompt's ``num_prompt`` tokens are, pictures included (scheduling/prompt_keys), and by
    ``blocks`` it is looked up in the RAM (scheduling/ram_store). After M-RoPE's pictures,
    ``num_skipped`` positions are missing: they have fewer than they have tokens.
    """

    request_id: str
    segments: tuple[Segment, ...]
    sampling: SamplingParams
    arrival: float
    max_new_tokens: int
    memory_peaks: Callable[[], tuple[MemoryPeak, ...]] = tuple
    status: RequestStatus = RequestStatus.WAITING
    seq_id: int = -1
    num_computed: int = 0
    output_tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    keys: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    blocks: tuple[int, ...] = ()
    # Runs behind a change, while some of them are still to join (scheduling/shifted_runs).
    shifted: ShiftedRuns | None = None
    # Where its sliding window is copied to the RAM (scheduling/prefix_cache).
    checkpoints: tuple[int, ...] = ()
    num_prompt: int = field(init=False)
    pictures: tuple[Picture, ...] = field(init=False)
    num_skipped: int = field(init=False)
    # time.monotonic() at each stage, 0 before it; see RequestTimings.
    queued: float = 0.0
    started: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    # Places of what its grammar cannot enforce.
    relaxed: tuple[str, ...] = ()
    # For a request whose vector is wanted, and no answer.
    pool: Pool | None = None
    # For a request that asks for its prompt's log-probabilities, until they are sent.
    scores: PromptScores | None = None

    def __post_init__(self) -> None:
        # Read several times a step.
        self.num_prompt = sum(segment.size for segment in self.segments)
        self.num_skipped = self.num_prompt - sum(segment.n_pos for segment in self.segments)
        images = (segment for segment in self.segments if isinstance(segment, ImageSegment))
        self.pictures = tuple(dict.fromkeys(segment.picture for segment in images))

    @property
    def num_image_tokens(self) -> int:
        """Tokens of the prompt that are pictures."""
        return sum(picture.n_tokens for picture in self.pictures)

    @property
    def num_tokens(self) -> int:
        """Positions known so far: prompt and sampled tokens."""
        return self.num_prompt + len(self.output_tokens)

    @property
    def num_remaining(self) -> int:
        """Positions still to be computed before the next token can be sampled."""
        shifted = self.shifted.num_left if self.shifted else 0
        return self.num_tokens - self.num_computed - shifted

    @property
    def decoding(self) -> bool:
        """Whether only the last tokens of the answer are left to be computed.

        That is one, or some more where a grammar forced them.
        """
        # Asked for every request in every step, so without further calls.
        sampled = len(self.output_tokens)
        left = self.num_prompt + sampled - self.num_computed
        return sampled > 0 and 0 < left <= min(sampled, MOST_DECODED)

    @property
    def needs_all_rows(self) -> bool:
        """Whether the model's output for every position of the prompt is needed."""
        return self.pool is not None or self.scores is not None

    def segment_at(self, position: int) -> tuple[Segment | None, int]:
        """The prompt's segment at ``position`` and the offset in it; None for sampled tokens."""
        for segment in self.segments:
            if position < segment.size:
                return segment, position
            position -= segment.size
        return None, position

    def rows(self, start: int, count: int) -> NDArray[Any]:
        """Token ids [count] or embeddings [count, n_embd] of tokens within one segment."""
        segment, offset = self.segment_at(start)
        if isinstance(segment, TokenSegment):
            return segment.tokens[offset : offset + count]
        if isinstance(segment, ImageSegment):
            assert segment.picture.rows is not None
            offset += segment.first_row
            return segment.picture.rows[offset : offset + count]
        return np.array(self.output_tokens[offset : offset + count], np.int32)

    def sections(self, start: int, count: int) -> NDArray[np.int32] | None:
        """M-RoPE's positions of a picture's tokens, int32 [4, count]; None for all else."""
        segment, offset = self.segment_at(start)
        if not isinstance(segment, ImageSegment) or segment.positions is None:
            return None
        return segment.positions.sections[:, offset : offset + count]

    def position_at(self, index: int) -> int:
        """The position of the token ``index``: the same number but after an M-RoPE picture."""
        if not self.num_skipped:
            return index
        position = 0
        for segment in self.segments:
            if index < segment.size:
                break
            index -= segment.size
            position += segment.n_pos
        return position + index

    def shareable(self, count: int) -> int:
        """How many of the first ``count`` tokens another sequence can be given."""
        segment, offset = self.segment_at(count)
        return (
            count - offset if isinstance(segment, ImageSegment) and not segment.divisible else count
        )

    def reset(self) -> None:
        """Back to the queue with nothing computed; sampled tokens and encoded pictures stay."""
        self.status = RequestStatus.WAITING
        self.seq_id = -1
        self.num_computed = 0
        self.shifted = None
        if self.pool is not None:
            self.pool.clear()
        if self.scores is not None:
            self.scores.tokens.clear()
