"""The memory report as of now: what changes after loading is read again for each request.

None of it waits for the engine: RAM and processes are read from the system, NVIDIA's cards from
NVML where it is installed. Other GPUs are shown as they were when the model was ready.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from server.memory.measured.nvml import GpuReading, Nvml
from server.memory.measured.system import ProcessMemory, read_process, read_ram
from server.messages import DeviceMemory, EngineReady, MemoryPart, SchedulerStats


@dataclass(slots=True, frozen=True)
class LiveDevice:
    """A device, and what NVML alone knows of it."""

    memory: DeviceMemory
    utilization: int | None = None
    temperature: int | None = None


@dataclass(slots=True, frozen=True)
class LiveMemory:
    """Devices, parts and cells now; ``engine`` is None while it restarts."""

    devices: tuple[LiveDevice, ...]
    parts: tuple[MemoryPart, ...]
    cells_used: int
    cells_total: int
    engine: ProcessMemory | None
    web: ProcessMemory | None


def live_memory(ready: EngineReady, stats: SchedulerStats, nvml: Nvml | None) -> LiveMemory:
    """Everything as of now, for a model that is loaded."""
    engine = read_process(ready.pid)
    return LiveMemory(
        devices=tuple(_device(device, engine, ready.pid, nvml) for device in ready.memory.devices),
        parts=tuple(_part(part, stats) for part in ready.memory.parts),
        cells_used=stats.kv_cells_used,
        cells_total=stats.kv_cells_total or ready.model.n_ctx,
        engine=engine,
        web=read_process(os.getpid()),
    )


@cache
def nvml() -> Nvml | None:
    """NVML, opened once a process."""
    return Nvml.open()


def _device(
    device: DeviceMemory, engine: ProcessMemory | None, pid: int, nvml: Nvml | None
) -> LiveDevice:
    if device.kind == "cpu":
        ram = read_ram()
        used = engine.resident if engine else 0
        return LiveDevice(replace(device, free=ram.available, total=ram.total, used=used))
    reading = nvml.read(device.device_id, {pid}) if nvml and device.device_id else None
    return _with_reading(device, reading) if reading else LiveDevice(device)


def _with_reading(device: DeviceMemory, reading: GpuReading) -> LiveDevice:
    used = device.used if reading.used is None else reading.used
    memory = replace(device, free=reading.free, total=reading.total, used=used)
    return LiveDevice(memory, reading.utilization, reading.temperature)


def _part(part: MemoryPart, stats: SchedulerStats) -> MemoryPart:
    """Caches fill with use; what they hold is counted in the engine."""
    if part.part == "image_cache":
        return replace(part, measured=stats.image_cache_bytes)
    if part.part == "prompt_cache":
        return replace(part, measured=stats.prompt_cache_bytes)
    return part


def measure_used(
    before: Sequence[DeviceMemory], now: Sequence[DeviceMemory]
) -> tuple[DeviceMemory, ...]:
    """The devices as they are now, with what this process holds of them.

    The system reports what is held of the RAM. Of a GPU it is how much less is free than before
    loading, which is right as long as no other program takes or frees any of it meanwhile.
    """
    free = {device.name: device.free for device in before}
    return tuple(replace(device, used=_used(device, free.get(device.name))) for device in now)


def _used(device: DeviceMemory, free_before: int | None) -> int | None:
    if device.kind == "cpu":
        process = read_process()
        return process.resident if process else None
    if device.kind in {"gpu", "igpu"} and free_before is not None:
        return max(free_before - device.free, 0)
    return None
