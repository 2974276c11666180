"""What NVIDIA's management library knows and ggml does not: this process's share, load, heat.

Optional: without nvidia-ml-py (the extra ``nvml``) or without the driver there is none of it.
Source: https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_CORE_TEMPERATURE = 0  # NVML_TEMPERATURE_GPU


@dataclass(slots=True, frozen=True)
class GpuReading:
    """A GPU now. Bytes; ``used`` by the processes asked for, None where the driver does not say
    (in a container with numbers of its own); ``utilization`` in percent, ``temperature`` in
    degrees Celsius.
    """

    free: int
    total: int
    used: int | None
    utilization: int | None
    temperature: int | None


class Nvml:
    """The library, opened. Every call may fail for a card that is gone; that is None."""

    def __init__(self, library: Any) -> None:
        self._library = library

    @classmethod
    def open(cls) -> Nvml | None:
        """The library if it is installed and finds a driver."""
        try:
            library = importlib.import_module("pynvml")
            library.nvmlInit()
        except Exception:  # no package, no driver, or one that does not answer
            return None
        return cls(library)

    def read(self, device_id: str, pids: Collection[int]) -> GpuReading | None:
        """The card with that PCI address (``0000:c1:00.0``)."""
        library = self._library
        try:
            handle = library.nvmlDeviceGetHandleByPciBusId(device_id.encode())
            memory = library.nvmlDeviceGetMemoryInfo(handle)
        except library.NVMLError:
            return None
        return GpuReading(
            free=int(memory.free),
            total=int(memory.total),
            used=self._used(handle, pids),
            utilization=self._number(lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu),
            temperature=self._number(
                lambda: library.nvmlDeviceGetTemperature(handle, _CORE_TEMPERATURE)
            ),
        )

    def _used(self, handle: Any, pids: Collection[int]) -> int | None:
        library = self._library
        try:
            running = library.nvmlDeviceGetComputeRunningProcesses(handle)
        except library.NVMLError:
            return None
        ours = [process.usedGpuMemory for process in running if process.pid in pids]
        return sum(ours) if ours and None not in ours else None

    def _number(self, read: Any) -> int | None:
        try:
            return int(read())
        except self._library.NVMLError:
            return None
