"""Devices that are not here, and a model whose sizes are easy to reckon with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from server.memory.fit.fit import Fit
from server.memory.fit.pools import pools_of
from server.memory.fit.search_space import Placement, SearchSpace
from server.messages import DeviceMemory, MemoryOptions

MIB = 1024 * 1024
GIB = 1024 * MIB

_CELL = {"f16": 16, "q8_0": 9, "q4_0": 5, "f32": 32, "bf16": 16}


def gpu(index: int = 0, free: int = 24 * GIB, **changes: Any) -> DeviceMemory:
    """A card with ``free`` bytes."""
    fields: dict[str, Any] = {
        "name": f"CUDA{index}", "description": "a card", "kind": "gpu", "free": free,
        "total": max(free, GIB), "backend": "CUDA", "device_id": f"0000:0{index}:00.0",
    }  # fmt: skip
    return DeviceMemory(**{**fields, **changes})


def ram(free: int = 64 * GIB) -> DeviceMemory:
    """The RAM with ``free`` bytes."""
    return DeviceMemory("CPU", "a processor", "cpu", free, max(free, GIB) * 2, "CPU")


@dataclass
class Sizes:
    """What a placement of the fake model takes: every number is its own."""

    placement: Placement
    model: FakeModel

    def on(self, device: str) -> int:
        """Bytes on one device."""
        return self.model.bytes_on(device, self.placement)


@dataclass
class FakeModel:
    """``layers`` of ``layer`` bytes each, the output layer too; a tower; buffers on each GPU."""

    layers: int = 33
    layer: int = 120 * MIB
    tower: int = 700 * MIB
    compute: int = 200 * MIB
    gpus: tuple[str, ...] = field(default_factory=tuple)
    calls: int = 0

    def predict(self, placement: Placement) -> Sizes:
        """Every candidate that the fit asks about."""
        self.calls += 1
        return Sizes(placement, self)

    def counts(self, placement: Placement) -> dict[str, int]:
        """Layers by GPU, as llama.cpp spreads them."""
        if not placement.use_gpu or not self.gpus:
            return {}
        if len(self.gpus) == 1:
            return {self.gpus[0]: placement.n_gpu_layers}
        split = placement.tensor_split or (1,) * len(self.gpus)
        counts = dict.fromkeys(self.gpus, 0)
        ends = [sum(split[: i + 1]) / sum(split) for i in range(len(split))]
        for index in range(placement.n_gpu_layers):
            at = next(i for i, end in enumerate(ends) if index / placement.n_gpu_layers < end)
            counts[self.gpus[at]] += 1
        return counts

    def bytes_on(self, device: str, placement: Placement) -> int:
        """Bytes on one device."""
        counts = self.counts(placement)
        each = _CELL[placement.cache_type_k] + _CELL[placement.cache_type_v]
        cells = placement.ctx_size * each * 128  # 4 KiB a cell and layer at f16
        layers = counts.get(device, 0)
        total = layers * (self.layer + cells)
        if device == "CPU":
            total = (self.layers - sum(counts.values())) * (self.layer + cells) + self.compute
        elif placement.use_gpu:
            total += self.compute
        if self.tower and device == (self.gpus[0] if placement.encoder_on_gpu else "CPU"):
            total += self.tower
        return total


def make_fit(
    devices: tuple[DeviceMemory, ...],
    *,
    model: FakeModel | None = None,
    ctx_size: int | None = None,
    parallel: int | None = None,
    n_ctx_train: int = 4096,
    picture_tokens: int = 576,
    **options: Any,
) -> Fit:
    """A search over fake devices; the last one is the RAM."""
    model = model or FakeModel()
    model.gpus = tuple(device.name for device in devices[:-1])
    space = SearchSpace(
        options=MemoryOptions(**options),
        ctx_size=ctx_size,
        parallel=parallel,
        gpus=devices[:-1],
        layers=model.layers,
        n_ctx_train=n_ctx_train,
        picture_tokens=picture_tokens if model.tower else 0,
        n_batch=512,
    )
    return Fit(space, model.predict, pools_of(devices, devices[:-1], space.options.margin))
