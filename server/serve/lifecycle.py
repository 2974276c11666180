"""From start to end: what SIGTERM, SIGINT and SIGHUP do, and how long requests may take to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from server.errors import ConfigError
from server.serve.web_server import WebServer

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
# While the server ends, idle connections on a shared socket may bring one more request for so long.
_LAST_REQUEST_SECONDS = 6.0
_TERMINAL_SECONDS = 0.3


class Admission(Protocol):
    """The requests in work (server.api.middleware.admission)."""

    in_work: int

    def drain(self, *, refuse: bool) -> None:
        """Lead clients elsewhere; with ``refuse`` by turning new requests away."""


class Terminal:
    """The terminal that this process was started from, if there is one."""

    def __init__(self) -> None:
        # nohup asks for SIGHUP to be ignored: closing the terminal must not end the server then.
        self._there = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    @property
    def closed(self) -> bool:
        """Whether there was one, and it has been closed."""
        return self._there and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Life:
    """Ends a server in good order.

    The first SIGTERM or SIGINT stops admitting, and everything ends when the last request has its
    answer, or after ``patience`` seconds. The second one ends everything at once. SIGHUP reloads;
    where the terminal was closed it ends the server.
    """

    def __init__(
        self,
        server: WebServer,
        admission: Admission,
        patience: float,
        reloads: Sequence[Callable[[], None]] = (),
    ) -> None:
        """SIGHUP calls ``reloads``; a ConfigError is logged, and everything stays as it was."""
        self._server = server
        self._admission = admission
        self._patience = patience
        self._reloads = reloads
        self._terminal = Terminal()
        self._draining: asyncio.Task[None] | None = None
        self.ending = asyncio.Event()
        self.hurried = False

    def take_signals(self) -> None:
        """From now on signals are handled here."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._stop, "Ctrl-C")
        loop.add_signal_handler(signal.SIGTERM, self._stop, "SIGTERM")
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _stop(self, name: str) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain(name))
        else:
            logger.warning("%s again: ending now", name)
            self._draining.cancel()
            self.hurried = True
            self._end(now=True)

    def _hang_up(self) -> None:
        if self._terminal.closed:
            self._end_without_terminal()
            return
        # The signal may come a moment before the terminal has gone.
        asyncio.get_running_loop().call_later(_TERMINAL_SECONDS, self._end_without_terminal)
        for reload in self._reloads:
            try:
                reload()
            except ConfigError as error:
                logger.error("not reloaded: %s", error.message)

    def _end_without_terminal(self) -> None:
        if self._terminal.closed and self._draining is None:
            self._stop("SIGTERM")

    async def _drain(self, name: str) -> None:
        shared = self._server.listener.shared
        self._admission.drain(refuse=not shared)
        if self._admission.in_work:
            logger.info(
                "finishing %s, up to %.0f s; %s again ends it now",
                *(_requests(self._admission.in_work), self._patience, name),
            )
        if shared:
            await self._server.stop_accepting()
        start = time.monotonic()
        while True:  # there is no event for it
            # First, too: a connection that was just accepted is not known yet.
            await asyncio.sleep(_POLL_SECONDS)
            if not self._waits(shared, time.monotonic() - start):
                break
        if self._admission.in_work:
            logger.warning(
                "not finished after %.0f s: %s",
                *(self._patience, _requests(self._admission.in_work)),
            )
        self._end(now=False)

    def _waits(self, shared: bool, spent: float) -> bool:
        if spent > self._patience:
            return False
        # Idle connections may bring one request more, which no other server can answer.
        idle = shared and len(self._server.connections) and spent < _LAST_REQUEST_SECONDS
        return bool(self._admission.in_work or idle)

    def _end(self, *, now: bool) -> None:
        self.ending.set()
        self._server.stop(now=now)


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
