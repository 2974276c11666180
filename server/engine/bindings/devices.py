"""The devices that this llama.cpp build can use, through ggml's own device API (ggml-backend.h)."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import psutil

from server.messages import BuildFacts, DeviceMemory

_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}


def _library(name: str) -> Any:
    folder = Path(llama_cpp.__file__).parent / "lib"
    for suffix in (".so", ".dylib", ".dll"):
        for prefix in ("lib", ""):
            path = folder / f"{prefix}{name}{suffix}"
            if path.exists():
                return ctypes.CDLL(str(path))
    raise OSError(f"{name} is missing from {folder}")


def _functions() -> tuple[Any, Any]:
    registry, base = _library("ggml"), _library("ggml-base")
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        function = getattr(base, name)
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    base.ggml_backend_dev_type.restype = ctypes.c_int
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    sizes = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.restype = None
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
    return registry, base


def list_devices() -> tuple[DeviceMemory, ...]:
    """Every backend device with its free and total bytes; the CPU's are those of the RAM."""
    registry, base = _functions()
    devices = []
    for index in range(registry.ggml_backend_dev_count()):
        handle = registry.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        kind = _KINDS.get(base.ggml_backend_dev_type(handle), "unknown")
        # ggml calls all of the RAM free, whoever uses it.
        available = psutil.virtual_memory().available if kind == "cpu" else free.value
        devices.append(
            DeviceMemory(
                name=base.ggml_backend_dev_name(handle).decode(),
                description=base.ggml_backend_dev_description(handle).decode().strip(),
                kind=kind,
                free=available,
                total=total.value,
            )
        )
    return tuple(devices)


def build_facts() -> BuildFacts:
    """Which llama.cpp this is and what it was built for."""
    return BuildFacts(
        llama_cpp_python=llama_cpp.__version__,
        backends=tuple(device.name for device in list_devices()),
        gpu_offload=bool(llama_cpp.llama_supports_gpu_offload()),
        system_info=llama_cpp.llama_print_system_info().decode().strip(),
    )
