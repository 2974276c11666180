"""What of this machine decides whether a built llama.cpp may run on it."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Read by CMake where llama-cpp-python and llama.cpp begin; the wheel is built with less work by it.
LESS_WORK = ROOT / "llama.cmake"
# One model on several machines (docs/rpc.md), and a device to test with that is no processor.
EVERYWHERE = ("-DGGML_RPC=ON",)
BACKENDS: dict[str, tuple[str, ...]] = {
    "cpu": ("-DGGML_METAL=OFF",),
    "cuda": ("-DGGML_CUDA=ON",),
    "metal": ("-DGGML_METAL=ON",),
    "vulkan": ("-DGGML_VULKAN=ON",),
    "rocm": ("-DGGML_HIP=ON",),
}


def default_backend() -> str:
    """Metal on Apple silicon, where it is always there; the processor elsewhere."""
    return "metal" if (sys.platform, platform.machine()) == ("darwin", "arm64") else "cpu"


def cmake_args(backend: str, environ: Mapping[str, str]) -> str:
    """CMAKE_ARGS for llama-cpp-python; the user's own come last and win."""
    return " ".join((*BACKENDS[backend], *EVERYWHERE, environ.get("CMAKE_ARGS", ""))).strip()


def options_digest() -> str:
    """A fingerprint of what is not the user's to say of the build."""
    facts = repr((BACKENDS, EVERYWHERE)) + LESS_WORK.read_text(encoding="utf-8")
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def cache_dir(environ: Mapping[str, str]) -> Path:
    """The folder that the server's ``--cache-dir`` means too."""
    own = environ.get("LLAVA_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "llava-server"


def cpu_flags() -> str:
    """The processor's instruction sets: a build for this machine may crash on another.

    /proc/cpuinfo repeats itself for each core, so its beginning is enough.
    """
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file.read(16384).splitlines():
                name, _, value = line.partition(":")
                if name.strip() in {"flags", "Features"}:
                    return " ".join(sorted(value.split()))
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_kind(backend: str) -> str:
    """The GPU architecture that CUDA code is built for when none is named."""
    tool = shutil.which("nvidia-smi") if backend == "cuda" else None
    if tool is None:
        return ""
    command = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " ".join(sorted(set(output.stdout.split())))


def wheel_key(version: str, backend: str, environ: Mapping[str, str]) -> str:
    """The name of the folder that holds the wheel for this machine and these options."""
    facts = "\n".join(
        (
            cpu_flags(),
            gpu_kind(backend),
            " ".join(platform.libc_ver()),
            cmake_args(backend, environ),
            LESS_WORK.read_text(encoding="utf-8"),
            environ.get("CXX", ""),
        )
    )
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    return f"{version}-{backend}-{sys.platform}-{platform.machine()}-{digest}"
