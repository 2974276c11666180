"""Facts of the machine and of what ran on it, without which figures say little."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from server import __version__
from server.settings.hardware import usable_cores

BUSY_SHARE = 0.15


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def facts() -> dict[str, object]:
    """What is printed above the table."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "llava-server": __version__,
        "llama-cpp-python": version("llama-cpp-python"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "busy_before": round(psutil.cpu_percent(interval=1.0) / 100, 2),
    }


def warning(busy: float) -> str | None:
    """A word when others use the processor, since then the figures mean little."""
    if busy <= BUSY_SHARE:
        return None
    return f"the machine is busy ({busy:.0%} of all cores before the start): do not trust this run"
