"""A server of a command's own, for as long as the command runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2

from server.errors import StartupError

DEFAULT_URL: Final = "http://127.0.0.1:8000"
# A model that is not here yet is downloaded first: with `pull`, which shows how far it is.
_LOAD_SECONDS: Final = 1800.0
_STOP_SECONDS: Final = 30.0


def is_healthy(url: str) -> bool:
    """Whether a server answers there now."""
    try:
        return httpx2.get(f"{url}/health", timeout=2.0).status_code == 200
    except httpx2.HTTPError:
        return False


@contextmanager
def own_server(model: str, mmproj: str | None) -> Iterator[str]:
    """Starts ``llava-server serve`` on a free port and ends it afterwards; gives its address.

    Raises:
        StartupError: it does not start; with its own words.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--model", model]
    command += ["--mmproj", mmproj] if mmproj else []
    print(f"starting a server with {model}", file=sys.stderr)
    with tempfile.TemporaryFile() as log:
        # Our package may lie in a checkout, which the command is not run from.
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)  # noqa: S603
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + _LOAD_SECONDS
            while not is_healthy(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    last = lines[-1] if lines else "the server did not start"
                    raise StartupError(last.removeprefix("llava-server: error: "))
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
