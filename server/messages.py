"""All that crosses the line between the web process and the engine process.

Web to engine: EngineConfig (once, first), AddRequest, AbortRequest, CountRequest, Shutdown.
Engine to web: EngineProgress, then EngineReady or EngineDead, then StepOutputs.
The two ends are children of one installation, so the messages travel by pickle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from server.errors import LlavaError
from server.sampling import SamplingParams


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """What the engine process needs to load the model. Names follow llama-server's flags."""

    model: Path
    mmproj: Path | None
    cache_dir: Path
    ctx_size: int
    parallel: int
    threads: int
    batch_size: int = 512
    ubatch_size: int = 512
    n_gpu_layers: int = -1
    mmproj_offload: bool = True
    image_size: int | None = None
    image_max_edge: int | None = None
    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    llava_fix: bool = True
    itl_target: float = 0.05
    image_cache_bytes: int = 256 * 1024 * 1024
    log_level: str = "info"


@dataclass(slots=True, frozen=True)
class TileLayout:
    """A picture cut into ``columns`` times ``rows`` squares, as LLaVA-1.6 sees large ones.

    The squares' tokens make one grid; ``left``, ``top``, ``width`` and ``height``, in tokens,
    are the part of it that the picture covers. The rest is padding.
    """

    columns: int
    rows: int
    left: int
    top: int
    width: int
    height: int

    def n_tokens(self, side: int, *, newlines: bool) -> int:
        """Tokens of overview and tiles together, each of ``side`` times ``side``.

        With ``newlines`` one more after each row of what the picture covers: 672 x 672 pixels in
        squares of 336 with 24 x 24 tokens give 576 + 48 * 48 + 48 = 2928. Without, all of every
        tile: 2880.
        """
        if newlines:
            return side**2 + self.height * (self.width + 1)
        return side**2 * (1 + self.columns * self.rows)


@dataclass(slots=True, frozen=True)
class ImageInput:
    """One picture, ready for the vision tower.

    ``rgb`` is ``height * width * 3`` bytes, row by row; ``digest`` is the SHA-256 of the
    original bytes and of the preprocessing, in hexadecimal. With a ``layout``, ``rgb`` is the
    overview and ``tiles`` are the squares of the same size, row by row. Every ``pool`` times
    ``pool`` tokens are averaged to one. ``detail`` is "high" or "low"; ``resized_width`` and
    ``resized_height`` are what the picture itself takes of the encoded pixels.
    """

    digest: str
    width: int
    height: int
    rgb: bytes
    source_width: int
    source_height: int
    tiles: tuple[bytes, ...] = ()
    layout: TileLayout | None = None
    pool: int = 1
    detail: str = "high"
    resized_width: int = 0
    resized_height: int = 0
    decode_seconds: float = 0.0

    @property
    def encoded_width(self) -> int:
        """Pixels across that the tower sees, in tiles or at once; the overview not counted."""
        return self.width * (self.layout.columns if self.layout else 1)

    @property
    def encoded_height(self) -> int:
        """Pixels down that the tower sees."""
        return self.height * (self.layout.rows if self.layout else 1)

    @property
    def n_squares(self) -> int:
        """How often the tower runs: once, or for the overview and each tile."""
        return 1 + (self.layout.columns * self.layout.rows if self.layout else 0)


@dataclass(slots=True, frozen=True)
class AddRequest:
    """A request to generate. ``parts`` are prompt text and pictures in the order of the prompt.

    ``arrival`` is ``time.monotonic()`` of the web process, which the engine process shares.
    """

    request_id: str
    parts: tuple[str | ImageInput, ...]
    sampling: SamplingParams
    arrival: float


@dataclass(slots=True, frozen=True)
class AbortRequest:
    """Nobody waits for this request any more."""

    request_id: str


@dataclass(slots=True, frozen=True)
class CountRequest:
    """A request to count the tokens of a prompt, pictures included, and no more."""

    request_id: str
    parts: tuple[str | ImageInput, ...]


@dataclass(slots=True, frozen=True)
class Shutdown:
    """Free everything and exit."""


@dataclass(slots=True, frozen=True)
class EngineProgress:
    """How far loading is; ``fraction`` from 0 to 1 within ``stage``."""

    stage: str
    fraction: float


@dataclass(slots=True, frozen=True)
class DeviceMemory:
    """A device of llama.cpp's with its memory in bytes, as ggml's device API reports it."""

    name: str
    description: str
    kind: str
    free: int
    total: int


@dataclass(slots=True, frozen=True)
class MemoryPart:
    """Bytes that one part of the model takes on one device, as llama.cpp allocated them."""

    part: str
    device: str
    bytes: int


@dataclass(slots=True, frozen=True)
class MemoryReport:
    """Where the memory went: devices, parts, and how many layers were offloaded."""

    devices: tuple[DeviceMemory, ...] = ()
    parts: tuple[MemoryPart, ...] = ()
    layers: int = 0
    layers_offloaded: int = 0


@dataclass(slots=True, frozen=True)
class BuildFacts:
    """Which llama.cpp build the engine runs on."""

    llama_cpp_python: str
    backends: tuple[str, ...]
    gpu_offload: bool
    system_info: str


@dataclass(slots=True, frozen=True)
class ModelFacts:
    """What the loaded language model is, and how its prompts are written."""

    name: str
    architecture: str
    description: str
    n_params: int
    size: int
    n_ctx: int
    n_ctx_seq: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_vocab: int
    chat_template: str | None
    bos_token: str
    eos_token: str


@dataclass(slots=True, frozen=True)
class VisionFacts:
    """What the loaded vision tower is.

    ``fixed`` towers take exactly ``image_size`` squared pixels, prepared by us; other towers
    take any size and libmtmd prepares them. A fixed tower with ``pinpoints``, (width, height) in
    pixels, sees a picture as several such squares; ``row_newlines``: with an embedding of its
    own after each row of their joint grid. ``faults`` are the faults found in this libmtmd
    for this tower, ``undone`` those put right. Sizes are in pixels, tokens per encoded square.
    """

    projector: str
    fixed: bool
    image_size: int
    native_image_size: int
    patch_size: int
    tokens_per_image: int
    image_mean: tuple[float, float, float]
    has_class_token: bool
    faults: tuple[str, ...]
    undone: tuple[str, ...]
    backend: str
    n_params: int = 0
    size: int = 0
    pinpoints: tuple[tuple[int, int], ...] = ()
    row_newlines: bool = False

    @property
    def tiled(self) -> bool:
        """Whether large pictures are cut into tiles (LLaVA-1.6)."""
        return bool(self.pinpoints)


@dataclass(slots=True, frozen=True)
class EngineReady:
    """The model is loaded and warmed up; requests may come."""

    model: ModelFacts
    vision: VisionFacts | None
    memory: MemoryReport
    build: BuildFacts
    load_seconds: float
    pid: int


@dataclass(slots=True, frozen=True)
class EngineDead:
    """The engine cannot go on. Sent if it still can; the closed line says it otherwise."""

    error: LlavaError


class FinishReason(str, Enum):
    """Why a request ended, in OpenAI's words where it has them."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(slots=True, frozen=True)
class EncodedImage:
    """What became of one picture; sizes in pixels, time in seconds.

    ``cached``: it had been encoded before, and ``encode_seconds`` is 0.
    """

    tokens: int
    grid_width: int
    grid_height: int
    width: int
    height: int
    source_width: int
    source_height: int
    encode_seconds: float
    cached: bool = False


@dataclass(slots=True, frozen=True)
class Admitted:
    """The prompt was counted and fits; it waits for a slot."""

    request_id: str
    prompt_tokens: int
    image_tokens: int


@dataclass(slots=True, frozen=True)
class Counted:
    """The answer to a CountRequest; ``image_tokens`` are among the ``prompt_tokens``."""

    request_id: str
    prompt_tokens: int
    image_tokens: int


@dataclass(slots=True, frozen=True)
class Rejected:
    """The request cannot be served, or failed on its own; the engine goes on."""

    request_id: str
    error: LlavaError


@dataclass(slots=True, frozen=True)
class TokenOutput:
    """New text of one request.

    ``images`` and ``cached_tokens`` come with the first output, ``completion_tokens`` counts
    all so far, and ``finish_reason`` is set on the last one.
    """

    request_id: str
    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None
    images: tuple[EncodedImage, ...] = ()
    cached_tokens: int = 0


@dataclass(slots=True, frozen=True)
class SchedulerStats:
    """The engine's state after a step; from ``preemptions`` on, totals since its start."""

    num_running: int = 0
    num_waiting: int = 0
    kv_cells_used: int = 0
    kv_cells_total: int = 0
    step_seconds: float = 0.0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    image_cache_hits: int = 0
    image_cache_misses: int = 0
    image_cache_bytes: int = 0


@dataclass(slots=True, frozen=True)
class StepOutputs:
    """All that one step brought forth."""

    outputs: tuple[Admitted | Counted | Rejected | TokenOutput, ...] = field(default=())
    stats: SchedulerStats | None = None
