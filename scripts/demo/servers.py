"""Starts a server on the demo model for as long as it is asked: ours, or llama.cpp's own."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models" / "demo"
LANGUAGE = MODELS / "llava-demo-q8_0.gguf"
VISION = MODELS / "llava-demo-mmproj-f16.gguf"
START_SECONDS = 120.0
STOP_SECONDS = 30.0


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """Runs a server until the block ends; gives its base URL once it is healthy."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, url, log)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def our_server(*flags: str) -> Iterator[str]:
    """``llava-server serve`` with the demo model; gives its base URL."""
    port = free_port()
    files = ["--model", str(LANGUAGE), "--mmproj", str(VISION)]
    with tempfile.TemporaryDirectory() as folder:
        cache = ["--cache-dir", f"{folder}/cache", "--port", str(port)]
        command = [sys.executable, "-m", "server", "serve", *files, *cache, *flags]
        with _running(command, port, Path(folder) / "log") as url:
            yield url


@contextmanager
def llama_server(program: Path) -> Iterator[str]:
    """llama.cpp's llama-server with the same two files; gives its base URL."""
    port = free_port()
    files = ["--model", str(LANGUAGE), "--mmproj", str(VISION)]
    with tempfile.TemporaryDirectory() as folder:
        ways = ["--port", str(port), "--jinja", "--ctx-size", "4096", "--parallel", "2"]
        with _running([str(program), *files, *ways], port, Path(folder) / "log") as url:
            yield url
