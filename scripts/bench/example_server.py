"""llama-cpp-python's example server: one file of its source archive, and what it imports."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from scripts.bench.models import folder
from scripts.llama_server import unpack
from scripts.setup.run import run
from scripts.setup.wheel import PACKAGE

# All else that it imports is in our own environment; with that it loads the same llama.cpp.
EXTRAS = ("safetensors", "websockets")
MEMBER = "examples/server/server.py"


def find() -> tuple[Path, Path]:
    """The program, and the folder of the packages that our environment lacks."""
    kept = folder() / f"example-server-{version(PACKAGE)}"
    program, libraries = kept / "server.py", kept / "libraries"
    if program.exists():
        return program, libraries
    print("bench: fetching llama-cpp-python's example server", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="example-", dir=folder()) as name:
        command = (
            *(sys.executable, "-m", "pip", "install", "--no-deps"),
            *("--target", Path(name) / "libraries", *EXTRAS),
        )
        run("installing what it imports", command, folder() / "example.log", os.environ)
        unpack(Path(name), lambda member: member.endswith(MEMBER))
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        (Path(name) / "libraries").replace(libraries)
        next(Path(name).glob(f"*/{MEMBER}")).replace(program)
    return program, libraries
