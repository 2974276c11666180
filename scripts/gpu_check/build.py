"""llama.cpp for this machine's GPU: libraries for our server, and llama-server beside them."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from scripts.gpu_check.pack import FOLDER, SOURCE, WHEELS
from scripts.llama_server import OPTIONS, PROGRAM
from scripts.setup.run import SetupError, run

BUILT = "built.tar.xz"
# What comes back from a machine comes in files of at most 16 MiB.
_PART = 15 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are built: ``site`` is a PYTHONPATH, ``bin`` has llama-server."""

    work: Path

    @property
    def site(self) -> Path:
        """Python packages, ours among them with the new libraries."""
        return self.work / "site"

    @property
    def program(self) -> Path:
        """llama-server."""
        return self.work / "bin" / PROGRAM

    @property
    def ready(self) -> bool:
        """Whether everything is there."""
        return self.program.exists() and (self.site / "llama_cpp" / "lib").is_dir()


def build(place: Place, options: list[str], out: Path | None) -> None:
    """Builds unless a build lies in ``.gpu/``, and installs the wheels.

    Raises:
        SetupError: a step failed; its log is named.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    if not place.ready:
        parts = sorted(FOLDER.glob(f"{BUILT}.*"))
        if parts:
            _unpack(parts, place.work)
        else:
            _compile(place, options)
            if out is not None:
                _hand_out(place, out)
    _install_wheels(place)


def _compile(place: Place, options: list[str]) -> None:
    source = place.work / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    with tarfile.open(FOLDER / SOURCE) as archive:
        archive.extractall(source, filter="data")
    tree = place.work / "build"
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    # Shared, so that our server and llama-server run on the very same libraries.
    shared = [option.replace("SHARED_LIBS=OFF", "SHARED_LIBS=ON") for option in OPTIONS]
    origin = ("-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN")
    code = source / "vendor" / "llama.cpp"
    configure = ("cmake", "-S", code, "-B", tree, *generator, *shared, *origin, *options)
    run("configuring llama.cpp", configure, place.work / "configure.log", os.environ)
    jobs = str(len(os.sched_getaffinity(0)))
    make = ("cmake", "--build", tree, "--parallel", jobs, "--target", PROGRAM, "mtmd")
    run("the build", make, place.work / "build.log", os.environ, _tell)
    _gather(source / "llama_cpp", tree / "bin", place)


def _gather(package: Path, built: Path, place: Place) -> None:
    target = place.site / "llama_cpp"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(package, target)
    (target / "lib").mkdir(exist_ok=True)
    place.program.parent.mkdir(exist_ok=True)
    shutil.copy2(built / PROGRAM, place.program)
    for library in built.glob("*.so*"):
        # Both find their libraries beside themselves.
        shutil.copy2(library, target / "lib" / library.name, follow_symlinks=False)
        shutil.copy2(library, place.program.parent / library.name, follow_symlinks=False)


def _hand_out(place: Place, out: Path) -> None:
    """Writes what was built in parts, so that another machine need not build it."""
    whole = place.work / BUILT
    with tarfile.open(whole, "w:xz", preset=6) as archive:
        archive.add(place.site / "llama_cpp", "site/llama_cpp")
        archive.add(place.program, f"bin/{PROGRAM}")
    data = whole.read_bytes()
    for number, start in enumerate(range(0, len(data), _PART)):
        (out / f"{BUILT}.{number:02}").write_bytes(data[start : start + _PART])
    print(f"{len(data) / 2**20:7.1f} MiB built, in parts: copy them to {FOLDER.name}/ and carry it")


def _unpack(parts: list[Path], work: Path) -> None:
    whole = work / BUILT
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(whole) as archive:
        archive.extractall(work, filter="data")
    program = work / "bin" / PROGRAM
    for library in (work / "site" / "llama_cpp" / "lib").glob("*.so*"):
        shutil.copy2(library, program.parent / library.name, follow_symlinks=False)


def _install_wheels(place: Place) -> None:
    wheels = sorted((FOLDER / WHEELS).glob("*.whl"))
    if (place.site / "fastapi").is_dir() or not wheels:
        return
    command = (
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
        *("--no-compile", "--target", place.site, *wheels),
    )
    run("installing wheels", command, place.work / "wheels.log", os.environ)


def _tell(line: str) -> None:
    if line.startswith("[") and "%" in line[:8]:
        print(line.rstrip(), file=sys.stderr, flush=True)


def check(place: Place) -> None:
    """Raises SetupError where nothing was built."""
    if not place.ready:
        raise SetupError(f"nothing is built in {place.work}; run `build` first")
