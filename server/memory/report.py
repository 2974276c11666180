"""Where the memory went, read from what llama.cpp says while it allocates.

llama.cpp has no C call that returns the sizes of its buffers; it logs each one as it is
allocated (llama-model.cpp, llama-kv-cache.cpp, llama-context.cpp, clip.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from server.messages import DeviceMemory, MemoryPart, MemoryReport

_MIB = 1024 * 1024
_BUFFER = re.compile(
    r"(?P<function>\w+): +(?P<device>\S+) +(?P<what>model|KV|RS|output|compute) buffer size ="
    r" +(?P<mib>[\d.]+) MiB"
)
_TOWER_SIZE = re.compile(r"model size: +(?P<mib>[\d.]+) MiB")
_TOWER_BACKEND = re.compile(r"CLIP using (?P<device>\S+) backend")
_OFFLOADED = re.compile(r"offloaded (?P<done>\d+)/(?P<all>\d+) layers to GPU")
_PARTS = {"model": "weights", "KV": "kv_cache", "RS": "kv_cache", "output": "output"}


def read_report(
    lines: Iterable[str], devices: Sequence[DeviceMemory], n_layer: int
) -> MemoryReport:
    """The report of a finished load. ``n_layer`` counts the output layer too, as llama.cpp does."""
    buffers: dict[tuple[str, str], float] = {}
    tower_device, offloaded, layers = "CPU", 0, n_layer
    for line in lines:
        if found := _BUFFER.search(line):
            key = (_part(found["function"], found["what"]), found["device"])
            # Weights and cache come in several buffers; a graph that is reserved again
            # replaces its buffer and is logged again.
            earlier = buffers.get(key, 0.0) if key[0] in {"weights", "kv_cache"} else 0.0
            buffers[key] = earlier + float(found["mib"])
        elif found := _TOWER_BACKEND.search(line):
            tower_device = found["device"]
        elif "load_hparams" in line and (found := _TOWER_SIZE.search(line)):
            buffers["vision_encoder", tower_device] = float(found["mib"])
        elif found := _OFFLOADED.search(line):
            offloaded, layers = int(found["done"]), int(found["all"])
    return MemoryReport(tuple(devices), _by_device(buffers), layers, offloaded)


def _by_device(buffers: dict[tuple[str, str], float]) -> tuple[MemoryPart, ...]:
    sizes: dict[tuple[str, str], float] = {}
    for (part, buffer), mib in buffers.items():
        key = (part, _device(buffer))
        sizes[key] = sizes.get(key, 0.0) + mib
    return tuple(
        MemoryPart(part, device, round(mib * _MIB)) for (part, device), mib in sizes.items()
    )


def tower_backend(lines: Iterable[str]) -> str:
    """The backend that the vision tower runs on: ``CPU``, ``CUDA0``, ..."""
    found = [match["device"] for line in lines if (match := _TOWER_BACKEND.search(line))]
    return found[-1] if found else "CPU"


def _part(function: str, what: str) -> str:
    if what == "compute":
        # clip.cpp reserves the tower's graph, llama-context.cpp the language model's.
        return "compute" if function == "sched_reserve" else "vision_compute"
    return _PARTS[what]


def _device(buffer: str) -> str:
    """The device of a buffer type: mapped, repacked and host variants lie in the RAM."""
    base = buffer.split("_", maxsplit=1)[0]
    return "CPU" if base == "CPU" or buffer.endswith("_Host") else base


def format_report(report: MemoryReport) -> list[str]:
    """The report as the lines of a table, for the log at start."""
    lines = [f"{'part':<16}{'device':<10}{'MiB':>10}"]
    for part in report.parts:
        lines.append(f"{part.part:<16}{part.device:<10}{part.bytes / _MIB:>10.1f}")
    total = sum(part.bytes for part in report.parts)
    lines.append(f"{'total':<26}{total / _MIB:>10.1f}")
    for device in report.devices:
        where = "RAM" if device.kind == "cpu" else "VRAM"
        lines.append(
            f"{device.name} ({device.description}): {device.free / _MIB:.0f} MiB of"
            f" {device.total / _MIB:.0f} MiB {where} free"
        )
    lines.append(f"layers offloaded: {report.layers_offloaded} of {report.layers}")
    return lines
