"""The process of ``llava-server rpc-server``: serves this machine's devices to other machines.

Source: tools/rpc/rpc-server.cpp, ``ggml_backend_rpc_start_server`` in ggml-rpc.cpp.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engine.llama.ggml import device_handle, ggml, list_devices
from server.errors import ConfigError, StartupError
from server.memory.measured.system import read_process, read_ram
from server.messages import DeviceMemory
from server.sizes import in_words

# void get_memory(ggml_backend_dev_t, size_t * free, size_t * total)
_GetMemory = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
# Its place in struct ggml_backend_device_i, with which a device begins (ggml-backend-impl.h).
_GET_MEMORY = 2
_WARNING = (
    "llava-server: warning: the RPC protocol has no password and no encryption: whoever reaches"
    " {address} can read and overwrite this process's memory, and so run programs as its user."
    " Let only machines that you trust reach the port"
)


@dataclass(slots=True, frozen=True)
class RpcServer:
    """What to serve, and where. No ``devices`` are all GPUs, or the processor without one.

    ``memory`` are the most bytes of each device that clients are told of; None is all there is.
    """

    host: str
    port: int
    devices: tuple[str, ...] = ()
    memory: int | None = None
    threads: int = 1
    cache_dir: str | None = None


def chosen(found: Sequence[DeviceMemory], names: Sequence[str]) -> list[DeviceMemory]:
    """The devices to serve, as llama.cpp's rpc-server chooses them.

    Raises ConfigError where a name is unknown.
    """
    by_name = {device.name: device for device in found}
    for name in names:
        if name not in by_name:
            raise ConfigError(f"--device {name}: there is none; there are {', '.join(by_name)}")
    if names:
        return [by_name[name] for name in names]
    gpus = [device for device in found if device.kind in {"gpu", "igpu"}]
    return gpus or [device for device in found if device.kind == "cpu"]


class ReportedMemory:
    """What a device reports of its memory, in ggml's own words put right.

    ggml calls all RAM free, whatever is taken of it and whatever a container may have. Clients
    place layers by these numbers.
    """

    def __init__(self, device: DeviceMemory, most: int | None) -> None:
        self._is_cpu = device.kind == "cpu"
        self._most = most
        self._resident = _resident()
        handle = device_handle(device.name)
        slots = (ctypes.c_void_p * (_GET_MEMORY + 1)).from_address(handle or 0)
        self._original: Any = ctypes.cast(slots[_GET_MEMORY] or 0, _GetMemory)
        self.callback = _GetMemory(self._report)  # kept alive here
        slots[_GET_MEMORY] = ctypes.cast(self.callback, ctypes.c_void_p).value

    def _report(self, handle: int, free: Any, total: Any) -> None:
        self._original(handle, free, total)
        free[0], total[0] = self.limited(free[0], total[0])

    def limited(self, free: int, total: int) -> tuple[int, int]:
        """Free and total bytes of a device that has so many itself."""
        if not self._is_cpu:
            most = total if self._most is None else min(self._most, total)
            return max(most - (total - free), 0), most
        ram = read_ram()
        most = ram.total if self._most is None else min(self._most, ram.total)
        own = max(_resident() - self._resident, 0)
        return max(min(most - own, ram.available), 0), most


def _resident() -> int:
    process = read_process()
    return process.resident if process else 0


def start(wanted: RpcServer) -> Callable[[], None]:
    """Prepares the devices and returns what serves them; that returns only if it cannot."""
    devices = chosen(list_devices(), wanted.devices)
    _kept.extend(
        ReportedMemory(device, wanted.memory)
        for device in devices
        if device.kind == "cpu" or wanted.memory is not None
    )
    handles = [device_handle(device.name) for device in devices]
    address = f"{wanted.host}:{wanted.port}"
    for device in list_devices():
        if device.name in {one.name for one in devices}:
            size = device.total if wanted.memory is None else min(wanted.memory, device.total)
            _say(f"llava-server: serving {device.name} ({in_words(size)}) on {address}")
    _say(_WARNING.format(address=address))
    serve = ggml().ggml_backend_rpc_start_server
    serve.restype = None
    serve.argtypes = [
        *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_void_p),
    ]
    cache = os.fsencode(wanted.cache_dir) if wanted.cache_dir else None
    if wanted.cache_dir:
        Path(wanted.cache_dir).mkdir(parents=True, exist_ok=True)
    array = (ctypes.c_void_p * len(handles))(*handles)
    return lambda: serve(address.encode(), cache, wanted.threads, len(handles), array)


_kept: list[ReportedMemory] = []


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(text: str) -> int:
    """Serves until Ctrl-C or SIGTERM, which is how it is meant to end."""
    endings = {signal.SIGINT, signal.SIGTERM}
    # Blocked in all threads: the C call, which never returns, would not let Python see them.
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    fields = json.loads(text)
    try:
        serve = start(RpcServer(**{**fields, "devices": tuple(fields["devices"])}))
    except AttributeError:
        _say("llava-server: error: this llama.cpp was built without RPC; `make setup` builds one")
        return 1
    except OSError as error:
        _say(f"llava-server: error: cannot serve: {error}")
        return 1
    except StartupError as error:
        _say(f"llava-server: error: {error.message}")
        return error.exit_code

    def work() -> None:
        serve()
        os._exit(1)  # its reason is on the terminal

    threading.Thread(target=work, name="rpc", daemon=True).start()
    signal.sigwait(endings)
    os._exit(0)  # the thread in C cannot be joined


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
