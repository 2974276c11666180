"""Which of the backends' devices llama.cpp offloads to.

Source: ``llama_prepare_model_devices`` in llama.cpp's src/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.messages import DeviceMemory

CPU = "CPU"


def offload_devices(devices: Sequence[DeviceMemory]) -> tuple[DeviceMemory, ...]:
    """GPUs in llama.cpp's order: each card once, RPC servers first, integrated ones if no other.

    A card is seen twice where two backends drive it (CUDA and Vulkan); the first one counts.
    """
    remote = [d for d in devices if d.kind == "gpu" and d.backend == "RPC"]
    cards: list[DeviceMemory] = []
    for device in devices:
        if device.kind != "gpu" or device.backend == "RPC":
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


def ram_of(devices: Sequence[DeviceMemory]) -> DeviceMemory:
    """The device that stands for the RAM. Every llama.cpp build has one."""
    return next(device for device in devices if device.kind == "cpu")
