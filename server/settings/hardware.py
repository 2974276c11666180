"""What the settings need to know of the machine: usable processor cores, and NVIDIA cards.

Cores are those that this process may run on, within its cgroups' quotas.

A container with ``--cpus 4`` on a machine of 64 cores sees all 64. 64 threads that spin at
llama.cpp's barriers use up the time of four in a moment, and then all of them stand still.

Standard library only: the setup needs it before anything is installed. Source:
Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst of Linux.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """The cores to use, at least one. ``root``: where /proc and /sys are."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    # Half a core more than there is would be waited for at each barrier: rounded down.
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The cores that each cgroup from ours up to the top may use, where it has a quota."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not controllers:
            tops, read = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            tops, read = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"], _quota_v1
        else:
            continue
        for top in tops:
            for folder in _upwards(root / top, name):
                # Inside a container the names may be those of the machine, which are not there.
                with suppress(OSError, ValueError):
                    quota = read(folder)
                    if quota is not None:
                        yield quota


def _upwards(top: Path, name: str) -> Iterator[Path]:
    path = PurePosixPath(name.lstrip("/"))
    for part in (path, *path.parents):
        yield top / part


def _quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())


def has_nvidia_card() -> bool:
    """Whether NVIDIA's driver shows a card, or at least its tool is installed."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
