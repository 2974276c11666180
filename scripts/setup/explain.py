"""Why a step of the setup failed, and what to do, from what its tools printed."""

from __future__ import annotations

import re
from pathlib import Path

COMPILER = (
    "no C++ compiler was found. Install one: `apt install build-essential`, `dnf install gcc-c++` "
    "or, on macOS, `xcode-select --install`"
)

# The first that matches wins, so the plain causes stand before those that follow from them.
CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"No space left on device",
        "the disk is full. Free some space, or set LLAVA_CACHE_DIR and TMPDIR to a larger one",
    ),
    (
        r"ensurepip is not available|No module named '?ensurepip|No module named '?venv",
        "this Python has no venv module. Install it: `apt install python3-venv`",
    ),
    (
        r"CMAKE_C(XX)?_COMPILER (not set|could be found)|No CMAKE_C(XX)?_COMPILER|"
        r"(is not able to compile a simple test program)",
        COMPILER,
    ),
    (
        r"CUDA Toolkit not found|Could not find nvcc|No CMAKE_CUDA_COMPILER|"
        r"Failed to find nvcc|Could NOT find CUDAToolkit",
        "the CUDA toolkit was not found. Install it and put nvcc on the PATH, or set "
        "CUDACXX=/usr/local/cuda/bin/nvcc, or build for the processor: make setup BACKEND=cpu",
    ),
    (
        r"Could NOT find Vulkan|glslc",
        "the Vulkan SDK was not found. Install it: `apt install libvulkan-dev glslc`",
    ),
    (
        r"hip-config\.cmake|hipConfig\.cmake|Could NOT find hip|ROCM_PATH|hipcc",
        "ROCm was not found. Install its developer packages and set ROCM_PATH if it is not "
        "in /opt/rocm",
    ),
    (
        r"Killed signal terminated|fatal error: Killed|virtual memory exhausted",
        "memory ran out. Build with fewer processes: CMAKE_BUILD_PARALLEL_LEVEL=1 make setup",
    ),
    (
        r"CMake .*(is required|not found|or higher)|Problem with the CMake installation",
        "no usable CMake. pip brings one from the package index by itself: check the connection, "
        "or install it: `apt install cmake`",
    ),
    (
        r"THESE PACKAGES DO NOT MATCH THE HASHES",
        "a downloaded package differs from the locked one; the package index serves something "
        "else, or the download was damaged. Try again, or look at the index that pip is set to",
    ),
    (
        r"No matching distribution found|Temporary failure in name resolution|"
        r"Failed to establish a new connection|Name or service not known|Connection refused|"
        r"Network is unreachable|Read timed out|ProxyError|getaddrinfo failed",
        "the package index cannot be reached. Connect, or see docs/install.md on installing "
        "without a connection",
    ),
)


def cause(output: str) -> str:
    """The likely cause in words, or a general word."""
    for pattern, text in CAUSES:
        if re.search(pattern, output, re.IGNORECASE):
            return text
    return "see its last lines"


def failure(step: str, output: str, log: Path, lines: int = 8) -> str:
    """All that a person needs: what failed, why, the log and its last lines."""
    # What pip says about a failed build says nothing of its cause; that stands before it.
    before = re.split(r"(?m)^\s*error: subprocess-exited-with-error", output)[0]
    tail = [line.rstrip() for line in (before or output).splitlines() if line.strip()][-lines:]
    quoted = "\n".join(f"  | {line[:160]}" for line in tail)
    return f"{step} failed: {cause(output)}\nlog: {log}\n{quoted}"
