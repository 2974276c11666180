"""Where the memory went: as planned from the files' headers, and as llama.cpp allocated it.

llama.cpp's C API has no call that returns the sizes of its buffers, and libmtmd has none at all;
each buffer is logged as it is allocated (llama-model.cpp, llama-kv-cache.cpp, llama-context.cpp,
clip.cpp). A test holds the lines against llama.cpp's own sums (llama-ext.h, C++).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from server.messages import DeviceMemory, FitDecision, MemoryPart, MemoryReport
from server.sizes import MIB

_BUFFER = re.compile(
    r"(?P<function>\w+): +(?P<device>\S+) +(?P<what>model|KV|RS|output|compute) buffer size ="
    r" +(?P<mib>[\d.]+) MiB"
)
_TOWER_SIZE = re.compile(r"model size: +(?P<mib>[\d.]+) MiB")
_TOWER_BACKEND = re.compile(r"CLIP using (?P<device>\S+) backend")
_OFFLOADED = re.compile(r"offloaded (?P<done>\d+)/(?P<all>\d+) layers to GPU")
_PARTS = {"model": "weights", "KV": "kv_cache", "RS": "kv_cache", "output": "output"}

_Key = tuple[str, str]  # part and device


class PlannedPart(Protocol):
    """A part of ``server.memory.plan.MemoryPlan``."""

    @property
    def part(self) -> str:
        """Its name."""

    @property
    def device(self) -> str:
        """Where it goes."""

    @property
    def bytes(self) -> int:
        """What it takes."""

    @property
    def estimated(self) -> bool:
        """Whether that is no exact sum."""


def make_report(
    lines: Iterable[str],
    devices: Sequence[DeviceMemory],
    planned: Sequence[PlannedPart],
    layers: int,
    *,
    model_size: int = 0,
    decisions: tuple[FitDecision, ...] = (),
    margins: tuple[tuple[str, int], ...] = (),
    tower: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> MemoryReport:
    """The report of a finished load: ``lines`` are llama.cpp's, ``devices`` as they are now.

    ``tower`` are the bytes that the vision tower reports, by part and device.

    ``layers`` counts the output layer too, as llama.cpp does; ``model_size`` are the bytes of all
    weights, on all devices.
    """
    lines = list(lines)
    offloaded = [int(found["done"]) for line in lines if (found := _OFFLOADED.search(line))]
    sizes = measured_parts(lines, model_size) | dict(tower)
    encoder = [device for part, device in sizes if part == "vision_encoder"]
    return MemoryReport(
        devices=tuple(devices),
        parts=pair(planned, sizes),
        layers=layers,
        layers_offloaded=offloaded[-1] if offloaded else 0,
        encoder=encoder[-1] if encoder else "",
        decisions=decisions,
        margins=margins,
    )


def pair(planned: Iterable[PlannedPart], measured: dict[_Key, int]) -> tuple[MemoryPart, ...]:
    """Each part on each device with both numbers, those that were planned first.

    A part that llama.cpp says nothing of is None, not nothing: it was not measured.
    """
    rest = dict(measured)
    pairs = [
        MemoryPart(
            part.part,
            part.device,
            part.bytes,
            rest.pop((part.part, part.device), None),
            part.estimated,
        )
        for part in planned
    ]
    return (*pairs, *(MemoryPart(*key, None, size) for key, size in rest.items()))


def measured_parts(lines: Iterable[str], model_size: int = 0) -> dict[_Key, int]:
    """Bytes by part and device, as llama.cpp logged them to a hundredth of a MiB.

    ``model_size`` are the bytes of all weights, where mapped ones are to be counted once.
    """
    buffers: dict[_Key, float] = {}
    tower_device = "CPU"
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
    _count_once(buffers, model_size / MIB)
    return _by_device(buffers)


def _count_once(buffers: dict[_Key, float], model_mib: float) -> None:
    """Weights that were rearranged for this processor, or copied to a GPU, lie in the mapped file
    too, in a range that holds some of them. They are not touched there any more: the system takes
    those pages back. So of the mapping only what was not copied counts.
    """
    mapped = ("weights", "CPU_Mapped")
    others = [mib for key, mib in buffers.items() if key[0] == "weights" and key != mapped]
    if mapped in buffers and others and model_mib:
        buffers[mapped] = min(buffers[mapped], max(model_mib - sum(others), 0.0))


def _by_device(buffers: dict[_Key, float]) -> dict[_Key, int]:
    sizes: dict[_Key, float] = {}
    for (part, buffer), mib in buffers.items():
        key = (part, _device(buffer))
        sizes[key] = sizes.get(key, 0.0) + mib
    return {key: round(mib * MIB) for key, mib in sizes.items()}


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
    """The report's lines: parts, their sums, devices, and what the fit decided."""
    lines = [f"{'part':<16}{'device':<10}{'planned':>12}{'measured':>12}  MiB"]
    for part in report.parts:
        mark = "  estimated" if part.estimated else ""
        if part.part in {"image_cache", "prompt_cache"}:
            mark = "  at most; fills with use"
        lines.append(f"{part.part:<16}{part.device:<10}{_numbers(part)}{mark}")
    total = _total(report.parts)
    lines.append(f"{'total':<26}{_numbers(total)}")
    lines += _devices(report)
    where = f", vision tower on {report.encoder}" if report.encoder else ""
    lines.append(f"layers offloaded: {report.layers_offloaded} of {report.layers}{where}")
    return lines


def _total(parts: tuple[MemoryPart, ...]) -> MemoryPart:
    planned = sum(part.predicted or 0 for part in parts)
    return MemoryPart("total", "", planned, sum(part.measured or 0 for part in parts))


def _numbers(part: MemoryPart) -> str:
    return "".join(
        f"{'-' if size is None else f'{size / MIB:.1f}':>12}"
        for size in (part.predicted, part.measured)
    )


def _devices(report: MemoryReport) -> Iterator[str]:
    no_gpu = all(device.kind == "cpu" for device in report.devices if device.total)
    for device in report.devices:
        if not device.total:
            continue  # an accelerator that works in the RAM (BLAS, AMX)
        where = "RAM" if device.kind in {"cpu", "igpu"} else "VRAM"
        used = "" if device.used is None else f", {device.used / MIB:.0f} MiB used by the engine"
        note = " (no GPU: everything is in the RAM)" if no_gpu else ""
        yield (
            f"{device.name} ({device.description}): {device.free / MIB:.0f} MiB of"
            f" {device.total / MIB:.0f} MiB {where} free{used}{note}"
        )
