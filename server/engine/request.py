"""One request inside the engine: its prompt, its tokens, and how far they are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.messages import ImageInput
from server.sampling import SamplingParams


class RequestStatus(Enum):
    """WAITING for a sequence (also after a preemption), RUNNING on one, or FINISHED."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class TokenRun:
    """A run of prompt text: token ids, int32 [n]."""

    tokens: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Positions that the run takes in its sequence."""
        return len(self.tokens)


@dataclass(slots=True)
class ImageRun:
    """A picture in the prompt; ``rows`` is float32 [n_tokens, n_embd] once it is encoded.

    ``cached``: the rows came from the image cache.
    """

    image: ImageInput
    n_tokens: int
    grid_width: int
    grid_height: int
    rows: NDArray[np.float32] | None = None
    encode_seconds: float = 0.0
    encode_start: float = 0.0
    cached: bool = False

    @property
    def size(self) -> int:
        """Positions that the picture takes in its sequence."""
        return self.n_tokens


Run = TokenRun | ImageRun


@dataclass(slots=True, eq=False)
class Request:
    """A request's whole state.

    ``num_computed`` counts the positions whose keys and values are in the cache. Prefill,
    decode and the recomputation after a preemption are all the same thing: the positions
    from there up to ``num_tokens`` are still to be computed. ``num_cached`` positions were
    taken from another sequence when the request was first admitted; ``keys`` say what stands
    in the prompt's ``num_prompt`` positions, pictures included (server.engine.prefix).
    """

    request_id: str
    runs: tuple[Run, ...]
    sampling: SamplingParams
    arrival: float
    max_new_tokens: int
    status: RequestStatus = RequestStatus.WAITING
    seq_id: int = -1
    num_computed: int = 0
    output_tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    keys: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    num_prompt: int = field(init=False)
    # time.monotonic() at each stage, 0 before it; see RequestTimings.
    queued: float = 0.0
    started: float = 0.0
    first_token: float = 0.0

    def __post_init__(self) -> None:
        # Read several times a step.
        self.num_prompt = sum(run.size for run in self.runs)

    @property
    def num_image_tokens(self) -> int:
        """Positions of the prompt that are pictures."""
        return sum(run.size for run in self.images)

    @property
    def images(self) -> list[ImageRun]:
        """The pictures in the order of the prompt."""
        return [run for run in self.runs if isinstance(run, ImageRun)]

    @property
    def num_tokens(self) -> int:
        """Positions known so far: prompt and sampled tokens."""
        return self.num_prompt + len(self.output_tokens)

    @property
    def num_remaining(self) -> int:
        """Positions still to be computed before the next token can be sampled."""
        return self.num_tokens - self.num_computed

    @property
    def decoding(self) -> bool:
        """Whether only the last sampled token is left to be computed."""
        return bool(self.output_tokens) and self.num_remaining == 1

    def run_at(self, position: int) -> tuple[Run | None, int]:
        """The prompt's run at ``position`` and the offset in it; None for sampled tokens."""
        for run in self.runs:
            if position < run.size:
                return run, position
            position -= run.size
        return None, position

    def rows(self, start: int, count: int) -> NDArray[Any]:
        """Token ids [count] or embeddings [count, n_embd] of positions within one run."""
        run, offset = self.run_at(start)
        if isinstance(run, TokenRun):
            return run.tokens[offset : offset + count]
        if isinstance(run, ImageRun):
            assert run.rows is not None
            return run.rows[offset : offset + count]
        return np.array(self.output_tokens[offset : offset + count], np.int32)

    def reset(self) -> None:
        """Back to the queue with nothing computed; sampled tokens and encoded pictures stay."""
        self.status = RequestStatus.WAITING
        self.seq_id = -1
        self.num_computed = 0
