"""Whether llama.cpp failed for want of memory, and of which: its log is all that tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

# From ggml-alloc.c, ggml-backend.cpp, ggml-cuda.cu, ggml-vulkan.cpp, llama-model.cpp.
_BUFFER = re.compile(r"(?:failed|unable) to allocate (\w+) buffer")
_GPU = re.compile(
    r"cudaMalloc failed|ErrorOutOfDeviceMemory|Device memory allocation of size"
    r"|CommandBufferCallbackErrorOutOfMemory|CUDA error: out of memory"
)
# From ggml.c, ggml-backend.cpp, llama-kv-cache.cpp, llama-context.cpp, the C++ library and libc.
_RAM = re.compile(
    r"insufficient memory \(attempted|failed to allocate|unable to allocate|bad_alloc"
    r"|Cannot allocate memory|out of memory"
)
# Words that stand where a backend's name would.
_NO_NAMES = {"output", "compute", "context"}


class Exhausted(Enum):
    """What there was too little of."""

    GPU = "a GPU's memory"
    RAM = "the RAM"


def exhausted(lines: Iterable[str]) -> Exhausted | None:
    """What the lines of a failed load complain about; None where memory was not the matter."""
    lines = list(lines)
    for line in lines:
        found = _BUFFER.search(line)
        if _GPU.search(line) or (found and _on_gpu(found[1])):
            return Exhausted.GPU
    return Exhausted.RAM if any(map(_RAM.search, lines)) else None


def _on_gpu(buffer: str) -> bool:
    """Whether a buffer's name is that of a GPU's memory: ``CUDA0``, and not ``CUDA_Host``."""
    host = buffer.startswith("CPU") or buffer.endswith("_Host")
    return not host and buffer not in _NO_NAMES
