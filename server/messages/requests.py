"""Messages of the web process to the engine process.

Their ``account`` says for which client the engine works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from server.defaults import (
    IMAGE_CACHE_BYTES,
    IMAGE_CACHE_DIR_BYTES,
    IMAGE_MAX_PIXELS,
    IMAGE_MAX_SIDE,
)
from server.messages.memory import MemoryOptions
from server.messages.pictures import ImageInput
from server.messages.sampling import SamplingParams
from server.usage import NOBODY, Account


@dataclass(slots=True, frozen=True)
class TokenizeRequest:
    """A text to be tokenized, as llama-server's /tokenize has it."""

    request_id: str
    text: str
    add_special: bool
    parse_special: bool
    account: Account = NOBODY


@dataclass(slots=True, frozen=True)
class DetokenizeRequest:
    """Tokens whose text is wanted."""

    request_id: str
    tokens: tuple[int, ...]
    account: Account = NOBODY


@dataclass(slots=True, frozen=True)
class Tokenized:
    """The answer to both: tokens, int32 [n], and the bytes that each of them stands for."""

    request_id: str
    tokens: bytes
    pieces: Mapping[int, bytes]

    @property
    def ids(self) -> memoryview:
        """The tokens as numbers."""
        return memoryview(self.tokens).cast("i")

    @property
    def text(self) -> bytes:
        """What the tokens stand for together."""
        return b"".join(map(self.pieces.__getitem__, self.ids))


@dataclass(slots=True, frozen=True)
class LiteralText:
    """Characters that mean nothing but themselves, though they look like a special token."""

    text: str


@dataclass(slots=True, frozen=True)
class TokenIds:
    """Text that the client has tokenized itself."""

    ids: tuple[int, ...]


# A plain string is text in which the model's special tokens count as such.
PromptPart = str | LiteralText | TokenIds | ImageInput


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """What the engine process needs to load the model. Names follow llama-server's flags.

    ``ctx_size`` and ``parallel`` None are chosen by the memory there is; ``ctx_size`` 0 is the
    model's own.
    """

    model: Path
    mmproj: Path | None
    cache_dir: Path
    ctx_size: int | None
    parallel: int | None
    threads: int
    batch_size: int = 512
    ubatch_size: int = 512
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    image_size: int | None = None
    image_max_edge: int | None = None
    image_max_side: int = IMAGE_MAX_SIDE
    image_max_pixels: int = IMAGE_MAX_PIXELS
    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    llava_fix: bool = True
    itl_target: float = 0.07
    stream_interval: float = 0.025
    prefix_cache_cells: int = 512
    cache_reuse: int = 0
    prompt_cache_bytes: int | None = None
    image_cache_bytes: int = IMAGE_CACHE_BYTES
    image_cache_dir: Path | None = None
    image_cache_dir_bytes: int = IMAGE_CACHE_DIR_BYTES
    mtmd_batch_max_tokens: int | None = None
    log_level: str = "info"
    brief: bool = False
    log_format: str = "text"


@dataclass(slots=True, frozen=True)
class AddRequest:
    """A request to generate. ``parts`` are prompt text and pictures in the order of the prompt.

    ``arrival`` is ``time.monotonic()`` of the web process, which the engine process shares.
    ``resumed`` are the tokens that an engine which was lost had already generated: they are not
    sent again, and what follows is as if it had gone on.
    """

    request_id: str
    parts: tuple[PromptPart, ...]
    sampling: SamplingParams
    arrival: float
    resumed: tuple[int, ...] = ()
    account: Account = NOBODY


@dataclass(slots=True, frozen=True)
class AbortRequest:
    """Nobody waits for this request any more."""

    request_id: str


@dataclass(slots=True, frozen=True)
class CountRequest:
    """A request to count the tokens of a prompt, pictures included, and no more."""

    request_id: str
    parts: tuple[PromptPart, ...]
    account: Account = NOBODY


@dataclass(slots=True, frozen=True)
class Shutdown:
    """Free everything and exit."""


class Pooling(str, Enum):
    """What the mean is taken of.

    HIDDEN: the language model's last hidden states, after its final norm, of every token of the
    prompt, pictures included. PROJECTOR: the rows that the language model is given for the
    prompt's pictures; it does not run.
    """

    HIDDEN = "hidden"
    PROJECTOR = "projector"


@dataclass(slots=True, frozen=True)
class EmbedRequest:
    """A prompt whose vector is wanted; ``arrival`` as in AddRequest."""

    request_id: str
    parts: tuple[PromptPart, ...]
    pooling: Pooling
    arrival: float
    account: Account = NOBODY


@dataclass(slots=True, frozen=True)
class Embedded:
    """The answer to an EmbedRequest: float32 bytes; ``image_tokens`` are among the others."""

    request_id: str
    vector: bytes
    prompt_tokens: int
    image_tokens: int
