"""What this process took of each device, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from server.memory.process import read_process
from server.messages import DeviceMemory


def measure_used(
    before: Sequence[DeviceMemory], now: Sequence[DeviceMemory]
) -> tuple[DeviceMemory, ...]:
    """The devices as they are now, with what this process holds of them.

    Of the RAM the system tells; of a GPU it is how much less is free than before loading, which
    is right as long as nobody else takes or frees any of it meanwhile.
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
