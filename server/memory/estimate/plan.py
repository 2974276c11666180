"""The plan: what a model will take, part by part and device by device, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from server.gguf.model_header import ModelHeader, TowerHeader
from server.memory.estimate.compute import compute_parts
from server.memory.estimate.inputs import PlannedPart, PlanSettings
from server.memory.estimate.kv_cache import is_estimated, layer_bytes
from server.memory.estimate.vision import tower_parts
from server.memory.estimate.weights import CPU, layer_devices, weights_by_device


@dataclass(slots=True, frozen=True)
class MemoryPlan:
    """Where the memory will go. ``layers`` counts the output layer, as llama.cpp does.

    ``layer_devices`` names the device of each of these layers.
    """

    parts: tuple[PlannedPart, ...]
    layers: int
    layers_offloaded: int
    layer_devices: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes on all devices."""
        return sum(part.bytes for part in self.parts)

    @property
    def estimated(self) -> bool:
        """Whether any part is estimated."""
        return any(part.estimated for part in self.parts)

    def on(self, device: str) -> int:
        """Bytes on one device."""
        return sum(part.bytes for part in self.parts if part.device == device)

    def of(self, part: str) -> int:
        """Bytes of one part on all devices."""
        return sum(one.bytes for one in self.parts if one.part == part)


def plan_memory(
    model: ModelHeader, tower: TowerHeader | None, settings: PlanSettings
) -> MemoryPlan:
    """The plan of a model, with or without its vision tower, for these settings.

    No file is read and nothing is loaded. Parts are named as ``memory/report.py`` names what
    is measured.
    """
    devices = layer_devices(model, settings)
    parts = [*_weights(model, settings, devices), *_cells(model, settings, devices)]
    parts += [*compute_parts(model, settings, devices), *tower_parts(tower, settings)]
    if settings.prompt_cache_bytes:
        parts.append(PlannedPart("prompt_cache", CPU, settings.prompt_cache_bytes))
    offloaded = sum(name != CPU for name in devices)
    return MemoryPlan(tuple(parts), len(devices), offloaded, devices)


def _weights(
    model: ModelHeader, settings: PlanSettings, devices: tuple[str, ...]
) -> list[PlannedPart]:
    found = weights_by_device(model, settings, devices)
    return [PlannedPart("weights", device, size) for device, size in found.items()]


def _cells(
    model: ModelHeader, settings: PlanSettings, devices: tuple[str, ...]
) -> list[PlannedPart]:
    found: dict[str, int] = {}
    for device, size in zip(devices, layer_bytes(model, settings), strict=False):
        found[device] = found.get(device, 0) + size
    guess = is_estimated(model)
    return [PlannedPart("kv_cache", name, size, guess) for name, size in found.items() if size]
