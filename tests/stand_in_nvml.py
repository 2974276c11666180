"""A stand-in for pynvml, of the package nvidia-ml-py: one card."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from memory_fakes import GIB


class NVMLError(Exception):
    """What the real library raises."""


class FakeNvml:
    """One card, on which this process and another one run."""

    NVMLError = NVMLError

    def __init__(self, **missing: Any) -> None:
        self.missing = missing

    def _answer(self, name: str, value: Any) -> Any:
        if name in self.missing:
            raise NVMLError(name)
        return value

    def nvmlInit(self) -> None:
        self._answer("init", None)

    def nvmlDeviceGetHandleByPciBusId(self, device_id: bytes) -> str:
        if device_id != b"0000:00:00.0":
            raise NVMLError("no such card")
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:
        return SimpleNamespace(free=3 * GIB, total=24 * GIB, used=21 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> Any:
        ours = SimpleNamespace(pid=os.getpid(), usedGpuMemory=20 * GIB)
        return self._answer("used", [ours, SimpleNamespace(pid=1, usedGpuMemory=GIB)])

    def nvmlDeviceGetUtilizationRates(self, _handle: str) -> Any:
        return SimpleNamespace(gpu=self._answer("utilization", 87))

    def nvmlDeviceGetTemperature(self, _handle: str, sensor: int) -> int:
        assert sensor == 0
        return int(self._answer("temperature", 61))
