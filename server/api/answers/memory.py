"""GET /v1/memory. Every size is in bytes."""

from __future__ import annotations

from typing import Literal

from server.api.answers.base import Answer


class MemoryDevice(Answer):
    """A device of a backend now; ``used`` is this engine's part, None where nobody knows.

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


class MemoryPartSizes(Answer):
    """A part on a device: planned from the files' headers, and as llama.cpp allocated it."""

    part: str
    device: str
    predicted: int | None
    measured: int | None
    estimated: bool


class Cells(Answer):
    """Cells of the KV cache; the free ones include those that only keep prefixes."""

    total: int
    used: int
    free: int


class Decision(Answer):
    """A setting that was left on auto: what it became, and why."""

    setting: str
    value: str
    reason: str


class ProcessSizes(Answer):
    """A process's own memory, its pages of files, and the most of both at once."""

    anonymous: int
    mapped: int
    peak: int


class Processes(Answer):
    """The two processes of the server."""

    engine: ProcessSizes | None
    web: ProcessSizes | None


class Memory(Answer):
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
