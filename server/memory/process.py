"""What a process holds of the RAM (proc_pid_status(5))."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

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
