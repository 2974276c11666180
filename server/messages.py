"""All that crosses the line between the web process and the engine process.

Web to engine: EngineConfig (once, first), AddRequest, AbortRequest, Shutdown.
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
    llava_fix: bool = True
    log_level: str = "info"


@dataclass(slots=True, frozen=True)
class ImageInput:
    """One picture, ready for the vision tower.

    ``rgb`` is ``height * width * 3`` bytes, row by row; ``digest`` is the SHA-256 of the
    original bytes and of the preprocessing, in hexadecimal.
    """

    digest: str
    width: int
    height: int
    rgb: bytes
    source_width: int
    source_height: int


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
    take any size and libmtmd prepares them. ``faults`` are the faults found in this libmtmd
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
    """What became of one picture; sizes in pixels, time in seconds."""

    tokens: int
    grid_width: int
    grid_height: int
    width: int
    height: int
    source_width: int
    source_height: int
    encode_seconds: float


@dataclass(slots=True, frozen=True)
class Admitted:
    """The prompt was counted and fits; it waits for a slot."""

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

    ``images`` comes with the first output, ``completion_tokens`` counts all so far, and
    ``finish_reason`` is set on the last one.
    """

    request_id: str
    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None
    images: tuple[EncodedImage, ...] = ()


@dataclass(slots=True, frozen=True)
class SchedulerStats:
    """The engine's state after a step."""

    num_running: int = 0
    num_waiting: int = 0
    kv_cells_used: int = 0
    kv_cells_total: int = 0
    step_seconds: float = 0.0


@dataclass(slots=True, frozen=True)
class StepOutputs:
    """All that one step brought forth."""

    outputs: tuple[Admitted | Rejected | TokenOutput, ...] = field(default=())
    stats: SchedulerStats | None = None
