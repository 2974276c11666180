"""The machine that is planned for: this one, or one that the command line describes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import psutil

from server.errors import StartupError
from server.memory.settings import PlanDevice

_PLENTY: Final = 1 << 50
_TIMEOUT: Final = 60


def described(gpus: Sequence[int], ram: int | None) -> tuple[PlanDevice, ...]:
    """A machine with GPUs of so many bytes; RAM that nobody spoke of is enough."""
    cards = [PlanDevice(f"GPU{index}", "gpu", size, size) for index, size in enumerate(gpus)]
    size = _PLENTY if ram is None else ram
    return (*cards, PlanDevice("CPU", "cpu", size, size, "" if ram is None else "RAM"))


def this_machine() -> tuple[PlanDevice, ...]:
    """The devices here, as the engine's process sees them: GPUs first, the RAM last.

    Raises:
        StartupError: the engine's process cannot tell.
    """
    command = [sys.executable, "-m", "server.engine.devices"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, timeout=_TIMEOUT, check=True
        )
        listed = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise StartupError(
            f"the devices of this machine are not known ({error}); describe one with"
            " --device-memory 24GiB, or --ram alone for a machine without a GPU"
        ) from error
    found = [
        PlanDevice(one["name"], one["kind"], one["free"], one["total"], one["description"])
        for one in listed
        if one["kind"] in {"gpu", "igpu"}
    ]
    memory = psutil.virtual_memory()
    return (*found, PlanDevice("CPU", "cpu", memory.available, memory.total, "RAM"))


def is_plenty(device: PlanDevice) -> bool:
    """Whether nobody said how much memory this is."""
    return device.total == _PLENTY
