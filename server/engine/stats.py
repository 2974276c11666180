"""Which request raised the most memory that the engine has held so far, and by how much."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from server.memory.measured.system import read_process
from server.messages import DeviceMemory, MemoryPeak

ReadDevices = Callable[[], Sequence[DeviceMemory]]


class PeakWatch:
    """Knows the most that was held of each device: of the RAM the system tells, and of a GPU it
    is how much less has been free than before loading. Requests that run together share what
    they raise: each is told of all that rose in its time.

    ``before`` are the devices as they were before loading; ``read`` reads them again, and is
    called for GPUs alone.
    """

    def __init__(self, before: Sequence[DeviceMemory] = (), read: ReadDevices = lambda: ()) -> None:
        self._free = {d.name: d.free for d in before if d.kind in {"gpu", "igpu"}}
        self._read = read
        self._gpus: dict[str, int] = {}

    def begin(self) -> Callable[[], tuple[MemoryPeak, ...]]:
        """From now on; call the result at the end for the devices whose peak has risen since."""
        before = self._peaks()

        def end() -> tuple[MemoryPeak, ...]:
            now = self._peaks()
            raised = {name: peak - before.get(name, 0) for name, peak in now.items()}
            return tuple(MemoryPeak(name, now[name], by) for name, by in raised.items() if by > 0)

        return end

    def _peaks(self) -> dict[str, int]:
        process = read_process()
        found = {"CPU": process.peak} if process else {}
        if self._free:
            for device in self._read():
                if device.name in self._free:
                    used = self._free[device.name] - device.free
                    self._gpus[device.name] = max(used, self._gpus.get(device.name, 0))
        return {**found, **self._gpus}


# Prometheus asks every few seconds; a step may take a few milliseconds.
SECONDS_BETWEEN = 0.05


class StatsClock:
    """Statistics are told when requests came or went, when none is left, and else a few times a
    second. Nobody may come for hours after the last one: what it has changed is told at once, also
    where it came and went within one step.

    To fill them in, send and read them takes longer than all else that a lone stream's step costs
    us, and nobody looks that often.
    """

    def __init__(self) -> None:
        self._told = 0.0
        self._requests = (-1, -1)

    def due(self, num_running: int, num_waiting: int) -> bool:
        """Whether this step tells them; they count as told then."""
        now, requests = time.monotonic(), (num_running, num_waiting)
        if any(requests) and requests == self._requests and now - self._told < SECONDS_BETWEEN:
            return False
        self._told, self._requests = now, requests
        return True
