"""Asks /health ten times a second, and a bare server beside it: how busy is the machine?

python -m scripts.hardening.health PORT              # the bare server alone
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import httpx

MOST = 0.1  # seconds; the slowest percent of /health may take so long
_EVERY = 0.1
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


async def _serve(port: int) -> None:
    """Answers everything at once, and does nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with ExitStack() as stack:
            stack.callback(writer.close)
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(_ANSWER)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            return

    server = await asyncio.start_server(quietly, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Health:
    """Asks while the block runs; its slowest percent is the oracle.

    A process that waits for a core does so in both servers, so that only what /health takes
    beyond the bare server is its own.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.seconds: list[float] = []
        self.bare: list[float] = []

    def __enter__(self) -> Health:
        port = _free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.hardening.health", str(port)]
        )
        self._bare_url = f"http://127.0.0.1:{port}"
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._process.terminate()
        self._process.wait()

    def _ask(self) -> None:
        with (
            httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client,
            httpx.Client(
                base_url=self._bare_url,
                timeout=60,
                trust_env=False,
                transport=httpx.HTTPTransport(retries=8),
            ) as bare,
        ):
            bare.get("/")  # it starts
            while not self._ended.wait(_EVERY):
                self.seconds.append(_timed(client, "/health"))
                self.bare.append(_timed(bare, "/"))

    @property
    def p99(self) -> float:
        """Seconds of /health."""
        return percentile(self.seconds, 99)

    @property
    def p99_bare(self) -> float:
        """Seconds of the bare server."""
        return percentile(self.bare, 99)

    def flaw(self) -> str | None:
        """Why /health was too slow; None if it was not, or the machine alone is to blame."""
        if self.p99 <= MOST + self.p99_bare:
            return None
        return f"/health took {self.p99:.3f} s (p99), a bare server {self.p99_bare:.3f} s"

    def __str__(self) -> str:
        median = percentile(self.seconds, 50) * 1000
        return (
            f"/health p50 {median:.0f} ms, p99 {self.p99 * 1000:.0f} ms"
            f" (a bare server beside it {self.p99_bare * 1000:.0f} ms)"
        )


def percentile(values: list[float], percent: float) -> float:
    """Of some seconds; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def _timed(client: httpx.Client, path: str) -> float:
    began = time.monotonic()
    client.get(path).raise_for_status()
    return time.monotonic() - began


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
