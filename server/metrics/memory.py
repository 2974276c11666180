"""Where the memory goes, as families: looked up when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from server.memory.live import LiveDevice, LiveMemory, live_memory, nvml
from server.messages import EngineReady, SchedulerStats
from server.metrics.families import MODEL

# Text and labels, beside the model's name.
_FAMILIES = {
    "llava_memory_bytes": (
        "Bytes of a part on a device, planned and as allocated",
        *("part", "device", "kind"),
    ),
    "llava_device_memory_bytes": (
        "A device's memory: total, free, and used by the engine",
        *("device", "kind"),
    ),
    "llava_device_utilization_ratio": ("How busy a GPU is, 0 to 1 (NVML)", "device"),
    "llava_device_temperature_celsius": ("A GPU's temperature (NVML)", "device"),
    "llava_ram_bytes": (
        "RAM of the server's processes: their own, mapped files, the most of both so far",
        *("process", "kind"),
    ),
    "llava_model_layers": ("Layers, the output layer counted", "kind"),
    "llava_kv_cache_cells": ("Cells of the KV cache", "kind"),
}

_Sample = tuple[tuple[str, ...], float | None]


def memory(ready: EngineReady, stats: SchedulerStats, model: str) -> Iterator[Metric]:
    """Parts, devices, processes, layers and cells of a loaded model."""
    live = live_memory(ready, stats, nvml())
    report = ready.memory
    layers = _pairs(("offloaded", report.layers_offloaded), ("total", report.layers))
    cells = _pairs(("used", live.cells_used), ("total", live.cells_total))
    samples: dict[str, Iterable[_Sample]] = {
        "llava_memory_bytes": _parts(live),
        "llava_device_memory_bytes": _devices(live),
        "llava_device_utilization_ratio": _each(live, lambda one: _ratio(one.utilization)),
        "llava_device_temperature_celsius": _each(live, lambda one: one.temperature),
        "llava_ram_bytes": _processes(live),
        "llava_model_layers": layers,
        "llava_kv_cache_cells": cells,
    }
    for name, (text, *labels) in _FAMILIES.items():
        family = GaugeMetricFamily(name, text, labels=(MODEL, *labels))
        for values, value in samples[name]:
            if value is not None:
                family.add_metric((model, *values), value)
        yield family


def _pairs(*pairs: tuple[str, int]) -> Iterator[_Sample]:
    for label, value in pairs:
        yield (label,), value


def _each(live: LiveMemory, read: Callable[[LiveDevice], float | None]) -> Iterator[_Sample]:
    for device in live.devices:
        yield (device.memory.name,), read(device)


def _parts(live: LiveMemory) -> Iterator[_Sample]:
    for part in live.parts:
        yield (part.part, part.device, "predicted"), part.predicted
        yield (part.part, part.device, "measured"), part.measured


def _devices(live: LiveMemory) -> Iterator[_Sample]:
    for device in live.devices:
        memory = device.memory
        for kind, size in (("total", memory.total), ("free", memory.free), ("used", memory.used)):
            yield (memory.name, kind), size


def _processes(live: LiveMemory) -> Iterator[_Sample]:
    for name, process in (("engine", live.engine), ("web", live.web)):
        if process is not None:
            yield (name, "anonymous"), process.anonymous
            yield (name, "mapped"), process.mapped
            yield (name, "peak"), process.peak


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100
