"""The machine that is planned for: this one, or one that the command line describes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from server.errors import StartupError
from server.messages import DeviceMemory

_PLENTY: Final = 1 << 50
_TIMEOUT: Final = 60


def described(gpus: Sequence[int], ram: int | None) -> tuple[DeviceMemory, ...]:
    """A machine with GPUs of so many bytes; without ``ram`` the RAM is enough."""
    cards = [DeviceMemory(f"GPU{index}", "", "gpu", size, size) for index, size in enumerate(gpus)]
    size = _PLENTY if ram is None else ram
    return (*cards, DeviceMemory("CPU", "RAM", "cpu", size, size))


def this_machine(rpc: Sequence[str] = ()) -> tuple[DeviceMemory, ...]:
    """The devices here and at these rpc-servers, as the engine's process sees them.

    Raises:
        StartupError: the engine's process does not report them.
    """
    command = [sys.executable, "-m", "server.engine.llama.rpc", *rpc]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, timeout=_TIMEOUT, check=not rpc
        )
        if rpc and done.returncode:
            raise StartupError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
        return tuple(DeviceMemory(**one) for one in json.loads(done.stdout))
    except (subprocess.SubprocessError, OSError, ValueError, TypeError) as error:
        raise StartupError(
            f"the devices of this machine are not known ({error}); describe one with"
            " --device-memory 24GiB, or --ram alone for a machine without a GPU"
        ) from error


def is_plenty(total: int) -> bool:
    """Whether the size of this memory was not given."""
    return total == _PLENTY
