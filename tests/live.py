"""A real server in a real process, for tests that go through the whole house."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models" / "demo"
START_SECONDS = 60.0
# The process's id must be in its environment, and is known only once it runs.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class LiveServer:
    """``llava-server serve`` on a free port. Its log is in ``log_path``."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        socket: int | None = None,
    ) -> None:
        """``socket``: a descriptor to hand over as systemd does."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "server.log"
        cache = ["--cache-dir", str(folder / "cache")]
        with self.log_path.open("wb") as log:
            serve = [sys.executable, "-m", "server", "serve", "--port", "0", *cache, *flags]
            if socket is not None:
                serve = [sys.executable, "-c", HAND_OVER, str(socket), *serve]
            self.process = subprocess.Popen(
                serve,
                pass_fds=() if socket is None else (socket,),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        self.url = ""

    def __enter__(self) -> LiveServer:
        self.wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """All that the server has written so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Returns once /health says ok."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended:\n{self.log}"
            found = re.search(r"serving on (https?://[^\s\"]+)", self.log)
            if found:
                self.url = found[1]
                # Who tests TLS checks its certificate; this is only whether somebody answers.
                answer = httpx.get(f"{self.url}/health", verify=False)
                assert answer.json() == {"status": "ok"}
                return
            time.sleep(0.05)
        raise AssertionError(f"the server is not ready:\n{self.log}")

    def wait_healthy(self, seconds: float = START_SECONDS) -> None:
        """Returns once /health/ready says ok again."""
        deadline = time.monotonic() + seconds
        while httpx.get(f"{self.url}/health/ready").status_code != 200:
            assert time.monotonic() < deadline, f"not healthy again:\n{self.log}"
            time.sleep(0.05)

    def metrics_url(self) -> str:
        """Where the metrics are, on a port of their own."""
        found = re.search(r"metrics on http://\S+:(\d+)", self.log)
        assert found, self.log
        return f"http://127.0.0.1:{found[1]}"

    def engine_pid(self) -> int:
        """The process id of the engine."""
        (engine,) = engines(self.process.pid)
        return engine

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(30)


def children(pid: int) -> list[int]:
    """Process ids of the children of ``pid``, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # ended between the listing and the reading
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def engines(pid: int) -> list[int]:
    """Which of the children of ``pid`` are engines; another one is what decoders come from."""
    found = []
    for child in children(pid):
        with suppress(OSError):
            if b"server.engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether the process ends within ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
