"""llama-cpp-python as a wheel: built once for a backend and a machine, then kept."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from scripts.setup.explain import COMPILER
from scripts.setup.machine import LESS_WORK, cache_dir, cmake_args, wheel_key
from scripts.setup.progress import Progress
from scripts.setup.run import SetupError, locked, run, say
from server.settings.hardware import usable_cores

PACKAGE = "llama-cpp-python"


def split_lock(text: str) -> tuple[str, str]:
    """The lock without llama-cpp-python, and its entry alone."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    ours = [entry for entry in entries if entry.startswith(f"{PACKAGE}==")]
    if len(ours) != 1:
        raise SetupError(f"requirements.lock must pin {PACKAGE} exactly once; run `make lock`")
    return "".join(entry for entry in entries if entry is not ours[0]), ours[0]


def locked_version(entry: str) -> str:
    """The version that a lock entry pins."""
    return re.split(r"[=\s;\\]+", entry, maxsplit=2)[1]


def build_command(python: Path, requirement: Path, target: Path) -> list[str | Path]:
    """The command that builds the wheel from the source whose hash is locked.

    pip's own cache is left out: it would hand over a wheel built with other CMake options.
    """
    return [
        python, "-m", "pip", "wheel", "--verbose", "--no-cache-dir", "--no-deps",
        "--no-binary", PACKAGE, "--require-hashes", "--requirement", requirement,
        "--wheel-dir", target,
    ]  # fmt: skip


def build_environ(backend: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the build: the backend's CMake options, and all cores for make too."""
    less = (
        f"-DCMAKE_PROJECT_{project}_INCLUDE={shlex.quote(str(LESS_WORK))}"
        for project in ("llama_cpp", "llama.cpp")
    )
    return {
        "CMAKE_BUILD_PARALLEL_LEVEL": str(usable_cores()),
        **environ,
        "CMAKE_ARGS": " ".join((*less, cmake_args(backend, environ))),
    }


def check_tools(backend: str, environ: Mapping[str, str]) -> None:
    """Refuse at once what would fail after minutes of downloading and configuring."""
    compilers: Iterable[str] = filter(None, (environ.get("CXX"), "c++", "g++", "clang++"))
    if not any(shutil.which(name, path=environ.get("PATH")) for name in compilers):
        raise SetupError(f"cannot build llama.cpp: {COMPILER}")
    if backend == "metal" and sys.platform != "darwin":
        raise SetupError("BACKEND=metal needs macOS; choose cpu, cuda, vulkan or rocm")


def provide(python: Path, entry: str, backend: str, environ: Mapping[str, str]) -> Path:
    """The wheel for this machine, from the cache or built into it."""
    folder = cache_dir(environ) / "wheels" / wheel_key(locked_version(entry), backend, environ)
    lock = folder.with_name(f"{folder.name}.lock")
    with locked(lock, "another setup builds llama.cpp; waiting for it"):
        found = sorted(folder.glob("*.whl"))
        if found:
            say(f"llama.cpp for {backend} is in the cache: {folder}")
            return found[0]
        check_tools(backend, environ)
        return _build(python, entry, backend, environ, folder)


def _build(
    python: Path, entry: str, backend: str, environ: Mapping[str, str], folder: Path
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("building-*"):  # of a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    log = folder / "build.log"
    say(f"building llama.cpp for {backend}, once; minutes on a few cores. log: {log}")
    progress = Progress(sys.stdout, "setup: building llama.cpp")
    # Built beside its place, so that the move into it is atomic.
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as name:
        requirement = Path(name) / "requirement.txt"
        requirement.write_text(entry, encoding="utf-8")
        command = build_command(python, requirement, Path(name))
        try:
            run(
                "the build of llama.cpp",
                command,
                log,
                build_environ(backend, environ),
                progress.feed,
            )
        finally:
            progress.close()
        built = next(Path(name).glob("*.whl"))
        return built.replace(folder / built.name)
