"""The settings of memory, and where the memory went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class MemoryOptions:
    """The settings of memory; None leaves one to the fit.

    Names and values follow llama-server's flags. ``margin`` bytes stay free on every device;
    without ``fit`` nothing is lowered and nothing refused. ``rpc`` are addresses of rpc-servers,
    ``device`` names of GPUs, none of which are all.
    """

    fit: bool = True
    margin: int | None = None
    n_gpu_layers: int | None = None
    mmproj_offload: bool | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    flash_attn: bool | None = None
    mmap: bool = True
    mlock: bool = False
    split_mode: str = "layer"
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    rpc: tuple[str, ...] = ()
    device: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class DeviceMemory:
    """A device of llama.cpp's with its memory in bytes, as ggml's device API reports it.

    ``kind`` is cpu, gpu, igpu, accel or meta; the memory of a cpu is the RAM that this process may
    have. ``backend`` is CUDA, ROCm, Vulkan, MTL, SYCL, ..., ``device_id`` its PCI address where
    it has one. ``used`` is what the engine process took of it, None where it was not measured.
    """

    name: str
    description: str
    kind: str
    free: int
    total: int
    backend: str = ""
    device_id: str = ""
    used: int | None = None


@dataclass(slots=True, frozen=True)
class MemoryPart:
    """Bytes of one part on one device: as planned before loading, and as llama.cpp allocated them.

    None where a part was not planned, or cannot be measured by itself.
    """

    part: str
    device: str
    predicted: int | None
    measured: int | None
    estimated: bool = False


@dataclass(slots=True, frozen=True)
class MemoryPeak:
    """The most bytes that the engine has held of a device, and by how much a request raised it."""

    device: str
    bytes: int
    raised_by: int


@dataclass(slots=True, frozen=True)
class FitDecision:
    """A setting that was left to the fit: what it became, and why."""

    setting: str
    value: str
    reason: str


@dataclass(slots=True, frozen=True)
class MemoryReport:
    """Where the memory went. ``devices`` are as they were once all was loaded and warm.

    ``layers`` counts the output layer. ``encoder`` is the device of the vision tower, empty
    without one. ``margins`` are the bytes that were to stay free, by device.
    """

    devices: tuple[DeviceMemory, ...] = ()
    parts: tuple[MemoryPart, ...] = ()
    layers: int = 0
    layers_offloaded: int = 0
    encoder: str = ""
    decisions: tuple[FitDecision, ...] = ()
    margins: tuple[tuple[str, int], ...] = ()
