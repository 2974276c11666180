"""The RAM that this process may have and takes, and the peaks of RAM and devices.

It may have the machine's, or less where a cgroup (a container) sets it.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.messages import DeviceMemory, MemoryPeak


@dataclass(slots=True, frozen=True)
class Ram:
    """Bytes in all and still to be had. ``limited``: a cgroup's limit is the smaller one."""

    total: int
    available: int
    limited: bool


def read_ram(root: Path = Path("/")) -> Ram:
    """What the machine has, cut to every limit of the cgroups that this process is in.

    Page cache counts as available, in the machine and in the group: it is given back when needed.
    ``root`` is where /proc and /sys are found.
    """
    memory = psutil.virtual_memory()
    total, available, limited = int(memory.total), int(memory.available), False
    for limit, used in _limits(root):
        if limit < total:
            total, limited = limit, True
        available = min(available, max(limit - used, 0))
    return Ram(total, available, limited)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each cgroup from ours up to the top, where a limit is set."""
    for folder, limit_name, use_name, cache_key in _groups(root):
        limit, used = _number(folder / limit_name), _number(folder / use_name)
        if limit is not None and used is not None:
            yield limit, max(used - _stat(folder / "memory.stat", cache_key), 0)


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2 has one hierarchy
            names = ("memory.max", "memory.current", "inactive_file")
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            tops = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        for top in tops:
            inner = top / path.lstrip("/")
            # Inside a container the path may be the host's; the group itself is then at the top.
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(top):
                    yield (folder, *names)


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())  # "max" is no number, and no limit
    return None


def _stat(path: Path, key: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


_KIB = 1024


@dataclass(slots=True, frozen=True)
class ProcessMemory:
    """Bytes of a process. ``anonymous`` is its own, swapped out or not; ``mapped`` are pages of
    files, such as weights, that the system can take back; ``peak`` the most of both at once.
    """

    anonymous: int
    mapped: int
    peak: int

    @property
    def resident(self) -> int:
        """All of it."""
        return self.anonymous + self.mapped


def read_process(pid: int | str = "self", root: Path = Path("/proc")) -> ProcessMemory | None:
    """What the process holds now; None if there is no such process."""
    fields: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in (root / str(pid) / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                fields[name] = int(value.split()[0]) * _KIB
    if "RssAnon" in fields:
        anonymous = fields["RssAnon"] + fields.get("VmSwap", 0)
        mapped = fields.get("RssFile", 0) + fields.get("RssShmem", 0)
        return ProcessMemory(anonymous, mapped, fields.get("VmHWM", 0))
    with suppress(psutil.Error, ValueError):  # no Linux
        info = psutil.Process(None if pid == "self" else int(pid)).memory_info()
        return ProcessMemory(int(info.rss), 0, int(getattr(info, "peak_wset", info.rss)))
    return None


ReadDevices = Callable[[], Sequence[DeviceMemory]]


class MemoryPeaks:
    """The peak of each device: of the RAM as the system reports it, of a GPU by how much its free
    memory has shrunk since before loading. Requests that run together share what they raise: each
    reports all that rose while it ran.

    ``before`` are the devices as they were before loading; ``read`` reads them again, and is
    called for GPUs alone. Devices of rpc-servers are not among them: the loop would wait for them.
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
