"""``llava-server rpc-server`` in a process, for tests that use its devices."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from live import ROOT


class RpcServer:
    """This machine's processor as a device, on a free port of loopback."""

    def __init__(self, folder: Path, *flags: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "rpc.log"
        self._flags = flags
        self.address = ""
        self.start()

    def start(self) -> None:
        """Starts it, the second time on the port that it had."""
        port = self.address.rpartition(":")[2] or "0"
        flags = ["--port", port, "--threads", "1", *self._flags]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "rpc-server", *flags],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ},
            )
        deadline = time.monotonic() + 30
        while not (found := re.search(r"serving CPU .* on (\S+:\d+)", self.log)):
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)
        self.address = found[1]

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Sends the signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(30)

    def __enter__(self) -> RpcServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(signal.SIGKILL)
