"""Starts the servers that are compared, each with the same files, threads, slots and cells."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from scripts.bench import example_server
from scripts.bench.client import BenchError
from scripts.bench.figures import OURS, REFERENCE
from scripts.bench.models import Pair, folder
from scripts.llama_server import ROOT, find_or_build

START_SECONDS = 300.0
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What every server is started with."""

    pair: Pair
    threads: int = 2
    parallel: int = 8
    ctx_size: int = 16384
    our_flags: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """How a server is started, and where it says that it is ready."""

    line: list[str]
    health: str = "/health"
    environ: Mapping[str, str] = field(default_factory=dict)


def ours(load: Load, port: int) -> Command:
    """``llava-server serve``."""
    line = [
        *(sys.executable, "-m", "server", "serve", "--port", str(port)),
        *("--model", str(load.pair.model), "--mmproj", str(load.pair.mmproj)),
        *("--threads", str(load.threads), "--parallel", str(load.parallel)),
        *("--ctx-size", str(load.ctx_size), "--cache-dir", str(folder() / "ours")),
        *shlex.split(load.our_flags),
    ]
    return Command(line)


def llama_server(load: Load, port: int) -> Command:
    """llama.cpp's own; its slots share the cells, as ours do and as its defaults would."""
    line = [
        *(str(find_or_build()), "--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(load.pair.model), "--mmproj", str(load.pair.mmproj)),
        *("--threads", str(load.threads), "--parallel", str(load.parallel)),
        *("--ctx-size", str(load.ctx_size), "--kv-unified", "--jinja"),
    ]
    return Command(line)


def llama_cpp_python(load: Load, port: int) -> Command:
    """llama-cpp-python's example server, as it lies in its source archive."""
    program, libraries = example_server.find()
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "model": {
            "path": str(load.pair.model),
            "alias": "bench",
            "mtmd": {"mmproj_path": str(load.pair.mmproj)},
            "n_ctx": load.ctx_size,
            "n_seq_max": load.parallel,
            "threads": load.threads,
            "threads_batch": load.threads,
            "kv_unified": True,
            "store_logits": False,
        },
    }
    file = folder() / "example-server.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    line = [sys.executable, str(program), "--config-file", str(file)]
    return Command(line, "/healthz", {"PYTHONPATH": str(libraries)})


SERVERS: dict[str, Callable[[Load, int], Command]] = {
    OURS: ours,
    REFERENCE: llama_server,
    "llama-cpp-python": llama_cpp_python,
}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready: its address, and the seconds from its command to its health."""

    url: str
    ready_after: float


@contextmanager
def running(name: str, load: Load) -> Iterator[Running]:
    """Runs a server until the block ends."""
    port = _free_port()
    command = SERVERS[name](load, port)
    url = f"http://127.0.0.1:{port}"
    log = folder() / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.line,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_environ(), **command.environ},
        )
    try:
        _wait(process, url + command.health, log)
        yield Running(url, time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environ() -> dict[str, str]:
    """This process's, without what sets a server: flags alone count, and are the same for all."""
    settings = ("LLAVA_", "LLAMA_ARG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(health, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-1500:]
    raise BenchError(f"the server did not start; its log {log} ends:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
