"""What operators and llama-server's clients read: memory in bytes, health, props, tokens."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from server.api.shapes.base import shape


@shape
class MemoryDevice(TypedDict):
    """A device of a backend now; ``used`` is this engine's part, None where it is not known.

    ``utilization`` in percent and ``temperature`` in degrees Celsius come from NVML.
    """

    name: str
    description: str
    kind: str
    backend: str
    device_id: str
    total: int
    free: int
    used: int | None
    utilization: int | None
    temperature: int | None


@shape
class MemoryPartSizes(TypedDict):
    """A part on a device: planned from the files' headers, and as llama.cpp allocated it."""

    part: str
    device: str
    predicted: int | None
    measured: int | None
    estimated: bool


@shape
class Cells(TypedDict):
    """Cells of the KV cache; the free ones include those that only keep prefixes."""

    total: int
    used: int
    free: int


@shape
class Decision(TypedDict):
    """A setting that was left on auto: what it became, and why."""

    setting: str
    value: str
    reason: str


@shape
class ProcessSizes(TypedDict):
    """A process's own memory, its pages of files, and the most of both at once."""

    anonymous: int
    mapped: int
    peak: int


@shape
class Processes(TypedDict):
    """The two processes of the server."""

    engine: ProcessSizes | None
    web: ProcessSizes | None


@shape
class Memory(TypedDict):
    """Where the memory went, and why the model was placed so."""

    object: Literal["memory"]
    devices: list[MemoryDevice]
    parts: list[MemoryPartSizes]
    planned: dict[str, int]
    allocated: dict[str, int]
    layers: int
    layers_offloaded: int
    encoder: str | None
    cells: Cells
    parallel: int
    margins: dict[str, int]
    decisions: list[Decision]
    processes: Processes


@shape
class TokenPiece(TypedDict):
    """A token; bytes where it is a part of a character."""

    id: int
    piece: str | list[int]


@shape
class TokenizedAnswer(TypedDict):
    """Tokens; with their pieces where these were asked for. The rest is for vLLM's ``prompt``."""

    tokens: list[int] | list[TokenPiece]
    count: NotRequired[int]
    max_model_len: NotRequired[int]
    token_strs: NotRequired[list[str] | None]


@shape
class Detokenized(TypedDict):
    """A text. What is no character becomes U+FFFD."""

    content: str
    prompt: str


@shape
class TokenizerInfo(TypedDict):
    """What clients of vLLM read of a tokenizer."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None
    vocab_size: int
    model_max_length: int


@shape
class Templated(TypedDict):
    """A prompt's text. A picture is the marker that /props names."""

    prompt: str


@shape
class DefaultSettings(TypedDict):
    """``params`` are the sampling parameters of a request that names none."""

    n_ctx: int
    params: dict[str, Any]


@shape
class Modalities(TypedDict):
    """What the model takes beside text."""

    vision: bool
    audio: bool


@shape
class Props(TypedDict):
    """llama-server's properties, and why the chat template was chosen.

    ``media_marker`` stands for a picture in prompts of /v1/completions and from /apply-template.
    """

    default_generation_settings: DefaultSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    media_marker: str
    chat_template: str
    chat_template_caps: dict[str, bool]
    chat_template_name: str
    chat_template_reason: str
    bos_token: str
    eos_token: str
    build_info: str


@shape
class Version(TypedDict):
    """The server's version, as vLLM has it."""

    version: str


@shape
class Progress(TypedDict):
    """How far loading is; ``fraction`` from 0 to 1 within ``stage``. In the stage ``download``
    all of it is about one ``file``.
    """

    stage: str
    fraction: float
    loaded_bytes: int
    total_bytes: int
    file: NotRequired[str]


@shape
class Healthy(TypedDict):
    """The server lives. While it restarts its engine, requests wait for that."""

    status: Literal["ok", "restarting", "draining"]
    progress: NotRequired[Progress]


@shape
class Ready(TypedDict):
    """Requests are served now. ``step_age``: seconds that the engine is at its present work."""

    status: Literal["ok"]
    step_age: float
    requests_running: int
    requests_waiting: int


@shape
class HealthError(TypedDict):
    """llama-server's words for a model that loads."""

    code: int
    message: str
    type: Literal["unavailable_error"]


@shape
class Unhealthy(TypedDict):
    """No requests can come. ``step_age``: seconds since the progress was another one."""

    status: Literal["loading", "restarting", "draining", "failed"]
    progress: Progress | None
    step_age: float
    error: HealthError
