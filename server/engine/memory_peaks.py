"""Which requests raised the most memory that the engine has held so far, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.memory.measured.system import read_process
from server.messages import DeviceMemory, MemoryPeak

ReadDevices = Callable[[], Sequence[DeviceMemory]]


class MemoryPeaks:
    """The peak of each device: of the RAM as the system reports it, of a GPU by how much its free
    memory has shrunk since before loading. Requests that run together share what they raise: each
    reports all that rose while it ran.

    ``before`` are the devices as they were before loading; ``read`` reads them again, and is
    called for GPUs alone.
    """

    def __init__(self, before: Sequence[DeviceMemory] = (), read: ReadDevices = lambda: ()) -> None:
        self._free = {d.name: d.free for d in before if d.kind in {"gpu", "igpu"}}
        self._read = read
        self._gpus: dict[str, int] = {}

    def watch(self) -> Callable[[], tuple[MemoryPeak, ...]]:
        """Starts now; the result returns the devices whose peak has risen since."""
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
