"""Messages of the engine process to the web process."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from server.errors import LlavaError
from server.messages.facts import BuildFacts, ModelFacts, VisionFacts
from server.messages.memory import MemoryPeak, MemoryReport
from server.messages.pictures import EncodedImage
from server.messages.requests import Embedded, Tokenized
from server.usage import Account


@dataclass(slots=True, frozen=True)
class RequestTimings:
    """Seconds of ``time.monotonic()``, a clock that both processes share.

    ``queued``: the engine had it and its prompt was counted; ``started``: it was first given a
    sequence, which a preemption does not change; ``first_token`` and ``finished``: its first and
    its last token were sampled, the latter 0 while it runs. ``peaks`` are the devices of which
    the engine has never held as much as while this request ran, known with its end.
    """

    queued: float
    started: float
    first_token: float
    finished: float = 0.0
    peaks: tuple[MemoryPeak, ...] = ()

    @property
    def queue_seconds(self) -> float:
        """How long it waited for a sequence."""
        return self.started - self.queued

    @property
    def prefill_seconds(self) -> float:
        """From its start to its first token: the prompt's computation, encodes included."""
        return self.first_token - self.started

    @property
    def decode_seconds(self) -> float:
        """From its first token to its last; 0 while it runs."""
        return self.finished - self.first_token if self.finished else 0.0


@dataclass(slots=True, frozen=True)
class EngineProgress:
    """How far loading is; ``fraction`` from 0 to 1 within ``stage``.

    The engine leaves the bytes away; the web process adds them. ``file`` is the one that is
    downloaded, whose bytes they then are.
    """

    stage: str
    fraction: float
    loaded_bytes: int = 0
    total_bytes: int = 0
    file: str = ""


@dataclass(slots=True, frozen=True)
class EngineReady:
    """The model is loaded and warmed up; requests may come, ``parallel`` of them at a time."""

    model: ModelFacts
    vision: VisionFacts | None
    memory: MemoryReport
    build: BuildFacts
    load_seconds: float
    pid: int
    parallel: int = 1


@dataclass(slots=True, frozen=True)
class Heartbeat:
    """Sent every second: ``what`` is being done for ``age`` seconds, and may take ``expected``."""

    what: str
    age: float
    expected: float


@dataclass(slots=True, frozen=True)
class EngineDead:
    """The engine cannot go on. Sent if it still can; the closed line says it otherwise."""

    error: LlavaError


class FinishReason(str, Enum):
    """Why a request ended, in OpenAI's words where it has them."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(slots=True, frozen=True)
class Admitted:
    """The prompt was counted and fits; it waits for a slot.

    ``relaxed`` are the places of what cannot be enforced of its schemas (server.engine.schemas).
    """

    request_id: str
    prompt_tokens: int
    image_tokens: int
    relaxed: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Counted:
    """The answer to a CountRequest; ``image_tokens`` are among the ``prompt_tokens``."""

    request_id: str
    prompt_tokens: int
    image_tokens: int


@dataclass(slots=True, frozen=True)
class Rejected:
    """The request cannot be served, or failed on its own; the engine goes on.

    ``encode_seconds``: how long a picture took that could not be encoded, None if none failed.
    """

    request_id: str
    error: LlavaError
    encode_seconds: float | None = None


@dataclass(slots=True, frozen=True)
class TokenLogprob:
    """The log-probability of a chosen token, and those of the most likely ones, best first.

    ``piece`` are the token's bytes. ``top`` are triples of token, bytes and log-probability. Of a
    prompt's token ``rank`` is its place among all tokens, from 1; its first token has no
    log-probability: NaN.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()
    rank: int = 0


class TokenOutput(NamedTuple):
    """New text of one request. A tuple, since one comes for every token: it crosses the line in a
    tenth of the time that a dataclass takes.

    ``images`` and ``cached_tokens`` come with the first output, ``completion_tokens`` counts
    all so far, and ``finish_reason`` is set on the last one. ``timings`` come with the first and
    the last, ``prompt_logprobs``, if asked for, with the first. ``token`` is the sampled token's
    id: with it the request can be continued elsewhere; -1 if there is none (``max_tokens`` 0).
    ``stop`` is the stop string that ended it, with the last one if there was any.
    ``logprobs``, if asked for, are those of the tokens whose text has now been sent. ``gap``: the
    seconds since the token before, 0 where there is none; how fast it is read has no part in it.
    """

    request_id: str
    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None
    images: tuple[EncodedImage, ...] = ()
    cached_tokens: int = 0
    timings: RequestTimings | None = None
    token: int = -1
    stop: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    gap: float = 0.0
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True, frozen=True)
class SchedulerStats:
    """The engine's state after a step; from ``preemptions`` on, totals since its start.

    ``decodes`` are batches of tokens, ``decode_sequences`` the sequences in all of them, and
    ``tokens_max`` is the longest sequence so far.
    """

    num_running: int = 0
    num_waiting: int = 0
    kv_cells_used: int = 0
    kv_cells_total: int = 0
    preemptions: int = 0
    busy_seconds: float = 0.0
    llama_seconds: float = 0.0
    encode_seconds: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_cache_hits: int = 0
    prompt_cache_bytes: int = 0
    image_cache_queries: int = 0
    image_cache_hits: int = 0
    image_cache_bytes: int = 0
    image_cache_disk_hits: int = 0
    decodes: int = 0
    decode_sequences: int = 0
    tokens_max: int = 0


class StepOutputs(NamedTuple):
    """The outputs of one step, and the seconds that it took, in llama.cpp and in all.

    ``stats`` do not come with every step (server.engine.core). ``taken`` is processor time that
    the engine spent on a client's texts or grammars. A tuple as TokenOutput is.
    """

    outputs: tuple[Admitted | Counted | Embedded | Rejected | Tokenized | TokenOutput, ...] = ()
    stats: SchedulerStats | None = None
    step_seconds: float = 0.0
    llama_seconds: float = 0.0
    taken: Account | None = None
