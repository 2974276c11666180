"""Pools of memory that a placement may fill: one for each GPU, one for the RAM.

Which of the backends' devices llama.cpp offloads to.

Source: ``llama_prepare_model_devices`` in llama.cpp's src/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.errors import ConfigError
from server.messages import DeviceMemory
from server.sizes import MIB

CPU = "CPU"


def offload_devices(devices: Sequence[DeviceMemory]) -> tuple[DeviceMemory, ...]:
    """GPUs in llama.cpp's order: each card once, RPC servers first, integrated ones if no other.

    A card is seen twice where two backends drive it (CUDA and Vulkan); the first one counts.
    """
    remote = [d for d in devices if d.kind == "gpu" and is_remote(d)]
    cards: list[DeviceMemory] = []
    for device in devices:
        if device.kind != "gpu" or is_remote(device):
            continue
        if not device.device_id or all(c.device_id != device.device_id for c in cards):
            cards.append(device)
    if cards:
        return (*remote, *cards)
    integrated: list[DeviceMemory] = []
    for device in devices:
        if device.kind == "igpu" and (not integrated or device.backend == integrated[-1].backend):
            integrated.append(device)
    return (*remote, *integrated)


def named_devices(
    devices: Sequence[DeviceMemory], names: Sequence[str]
) -> tuple[DeviceMemory, ...]:
    """The GPUs of these names in this order; without names those that llama.cpp would take.

    ``none`` is no GPU. Raises ConfigError where there is none of that name.
    """
    if not names or "none" in names:
        return () if names else offload_devices(devices)
    gpus = {device.name: device for device in devices if device.kind in {"gpu", "igpu"}}
    for name in names:
        if name not in gpus:
            there = f"there are {', '.join(gpus)}" if gpus else "there is no GPU here"
            raise ConfigError(f"--device {name}: no GPU has that name; {there}")
    return tuple(gpus[name] for name in names)


def is_remote(device: DeviceMemory) -> bool:
    """Whether an rpc-server serves the device; its description is the server's HOST:PORT."""
    return device.backend == "RPC"


def ram_of(devices: Sequence[DeviceMemory]) -> DeviceMemory:
    """The device that stands for the RAM. Every llama.cpp build has one."""
    return next(device for device in devices if device.kind == "cpu")


# Backends whose GPU works in the machine's own RAM, although it is not called integrated.
_UNIFIED = {"MTL", "Metal"}
# What stays free where the operator does not say: this much, of small devices a share of them.
_MARGIN, _SHARE = 512 * MIB, 8


@dataclass(slots=True, frozen=True)
class Pool:
    """Devices that share ``room`` bytes, the ``margin`` taken off already."""

    devices: tuple[str, ...]
    room: int
    margin: int

    def excess(self, on: Callable[[str], int]) -> int:
        """Bytes too many, or how many are left where it is negative; ``on`` gives a device's."""
        return sum(map(on, self.devices)) - self.room


def pools_of(
    devices: Sequence[DeviceMemory], gpus: Sequence[DeviceMemory], margin: int | None
) -> tuple[Pool, ...]:
    """The pools of these GPUs and of the RAM, in this order.

    A GPU without memory of its own has two bounds: what its driver lets it have, and the RAM,
    which it shares with the processor.
    """
    ram = ram_of(devices)
    sharing = [gpu.name for gpu in gpus if is_unified(gpu, ram)]
    own = [_pool((gpu.name,), gpu, margin) for gpu in gpus]
    return (*own, _pool((ram.name, *sharing), ram, margin))


def _pool(names: tuple[str, ...], device: DeviceMemory, margin: int | None) -> Pool:
    kept = min(_MARGIN, device.total // _SHARE) if margin is None else margin
    return Pool(names, max(device.free - kept, 0), kept)


def is_unified(gpu: DeviceMemory, ram: DeviceMemory) -> bool:
    """Whether the GPU's memory is the machine's RAM.

    So it is that of an rpc-server here that serves all of the RAM.
    """
    same = (gpu.free, gpu.total) == (ram.free, ram.total)
    if is_remote(gpu):
        local = gpu.description.startswith(("127.", "localhost:"))
        return local and gpu.total == ram.total
    return gpu.kind == "igpu" or gpu.backend in _UNIFIED or same
