"""Web to engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from server.messages.memory import MemoryWishes
from server.messages.prompts import PromptPart
from server.sampling import SamplingParams


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
    memory: MemoryWishes = field(default_factory=MemoryWishes)
    image_size: int | None = None
    image_max_edge: int | None = None
    image_max_side: int = 32_768
    image_max_pixels: int = 50_000_000
    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    llava_fix: bool = True
    itl_target: float = 0.07
    stream_interval: float = 0.025
    prefix_cache_cells: int = 512
    prompt_cache_bytes: int | None = None
    image_cache_bytes: int = 256 * 1024 * 1024
    image_cache_dir: Path | None = None
    image_cache_dir_bytes: int = 4 * 1024**3
    mtmd_batch_max_tokens: int | None = None
    log_level: str = "info"
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


@dataclass(slots=True, frozen=True)
class AbortRequest:
    """Nobody waits for this request any more."""

    request_id: str


@dataclass(slots=True, frozen=True)
class CountRequest:
    """A request to count the tokens of a prompt, pictures included, and no more."""

    request_id: str
    parts: tuple[PromptPart, ...]


@dataclass(slots=True, frozen=True)
class Shutdown:
    """Free everything and exit."""
