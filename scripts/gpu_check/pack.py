"""What a GPU machine without the internet needs, in one small folder."""

from __future__ import annotations

import os
import re
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from scripts.llama_server import ROOT, archive
from scripts.setup.run import SetupError, run

FOLDER = ROOT / ".gpu"
SOURCE = "llama-cpp-python.tar.xz"
WHEELS = "wheels"
# Everything that one repository of this workplace may take along, the checkout included.
MOST = 64 * 1024 * 1024
# Of the archive: vocabularies, the browser's page, pictures, tests, and other backends.
_LEFT_OUT = re.compile(
    r"^(?!vendor/|llama_cpp/|CMakeLists.txt|LICENSE)"
    r"|^vendor/llama\.cpp/(models/|media/|docs/|tests/|examples/|benches/|ci/|gguf-py/|pocs/|grammars/|scripts/)"
    r"|^vendor/llama\.cpp/(\.devops|\.github|app|conversion)/|^vendor/llama\.cpp/[^/]*\.(py|md|lock)$"
    r"|^vendor/llama\.cpp/tools/ui/(?!CMakeLists\.txt$|.*\.(cmake|cpp|h)$)"
    r"|^vendor/llama\.cpp/ggml/src/ggml-(vulkan|sycl|metal|opencl|cann|hexagon|webgpu|zdnn|openvino"
    r"|virtgpu|zendnn|et)/"
)
_FOR_MEASURING = {"httpx", "httpcore"}
# pip matches these to the letter; what is newer than the machine's C library fails to install.
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]


def pack(python: str) -> list[Path]:
    """Writes source and wheels for that Python (``3.12``); the files.

    Raises:
        SetupError: something cannot be fetched, or it is too large to be carried.
    """
    FOLDER.mkdir(exist_ok=True)
    source = FOLDER / SOURCE
    trim(archive(), source)
    wheels = fetch_wheels(python)
    total = sum(path.stat().st_size for path in (source, *wheels))
    print(f"{source.stat().st_size / 2**20:7.1f} MiB  {source.relative_to(ROOT)}")
    print(f"{total / 2**20:7.1f} MiB  in all, with {len(wheels)} wheels")
    if total > MOST:
        raise SetupError(f"{total / 2**20:.0f} MiB are more than can be carried (64 MiB)")
    return [source, *wheels]


def trim(whole: Path, to: Path) -> None:
    """Writes the archive again without what a CUDA build of llama-server does not read."""
    with tarfile.open(whole) as read, tarfile.open(to, "w:xz", preset=6) as write:
        for member in read:
            _, _, name = member.name.partition("/")
            if member.isfile() and name and not _LEFT_OUT.search(name):
                member.name, member.pax_headers = name, {}  # which would name it anew
                write.addfile(member, read.extractfile(member))


def requirements(lock: str, python: str) -> Iterable[str]:
    """``name==version`` of what that Python needs, without llama.cpp, which is built there."""
    from packaging.requirements import Requirement  # noqa: PLC0415  (not on the GPU machine)

    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
    }
    for line in re.findall(r"^[a-zA-Z0-9][^\\\n]*", lock, re.MULTILINE):
        wanted = Requirement(line.strip())
        if wanted.name == "llama-cpp-python" or (
            wanted.marker is not None and not wanted.marker.evaluate(machine)
        ):
            continue
        yield f"{wanted.name}{wanted.specifier}"


def fetch_wheels(python: str) -> list[Path]:
    """The wheels of the locked requirements, and of httpx, which the measurements use."""
    wheels = FOLDER / WHEELS
    wheels.mkdir(exist_ok=True)
    for old in wheels.glob("*.whl"):
        old.unlink()
    wanted: set[str] = set()
    for name, only in (("requirements.lock", None), ("requirements-dev.lock", _FOR_MEASURING)):
        lock = (ROOT / name).read_text(encoding="utf-8")
        found = requirements(lock, python)
        wanted |= {line for line in found if only is None or line.split("==")[0] in only}
    platforms = [f"--platform={tag}" for tag in (*_PLATFORMS, "manylinux2014_x86_64")]
    command = (
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"),
        *("--disable-pip-version-check", f"--python-version={python}", "--implementation=cp"),
        *(*platforms, "--dest", str(wheels), *sorted(wanted)),
    )
    run("fetching wheels", command, FOLDER / "wheels.log", os.environ)
    return sorted(wheels.glob("*.whl"))
