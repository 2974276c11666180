"""From start to end: what SIGTERM, SIGINT and SIGHUP do, and who is waited for."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from typing import Protocol

from server.errors import ConfigError
from server.serve.web_server import WebServer

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
# While the server ends, idle connections on a shared socket may bring one more request for so long.
_LAST_REQUEST_SECONDS = 6.0


class Admission(Protocol):
    """What is known of requests (server.api.middleware.admission)."""

    in_work: int

    def drain(self, *, refuse: bool) -> None:
        """Lead clients elsewhere; with ``refuse`` by turning new requests away."""


class Life:
    """Ends a server in good order.

    The first SIGTERM or SIGINT stops admitting, and everything ends when the last request has its
    answer, or after ``patience`` seconds. The second one ends everything at once.
    """

    def __init__(self, server: WebServer, admission: Admission, patience: float) -> None:
        self._server = server
        self._admission = admission
        self._patience = patience
        self._reloads: list[Callable[[], None]] = []
        self._draining: asyncio.Task[None] | None = None
        self.ending = asyncio.Event()
        self.hurried = False

    def on_reload(self, reload: Callable[[], None]) -> None:
        """SIGHUP calls this; a ConfigError is logged, and everything stays as it was."""
        self._reloads.append(reload)

    def take_signals(self) -> None:
        """From now on signals are ours."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)

    def _told_to_stop(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        else:
            logger.warning("told again: ending at once")
            self._draining.cancel()
            self.hurried = True
            self._end(now=True)

    def _told_to_reload(self) -> None:
        for reload in self._reloads:
            try:
                reload()
            except ConfigError as error:
                logger.error("not reloaded: %s", error.message)

    async def _drain(self) -> None:
        shared = self._server.listener.shared
        self._admission.drain(refuse=not shared)
        if self._admission.in_work:
            logger.info("finishing %d requests", self._admission.in_work)
        if shared:
            await self._server.stop_accepting()
        start = time.monotonic()
        while True:  # nobody tells us
            # First, too: a connection that was just accepted is not made yet, and nobody knows it.
            await asyncio.sleep(_POLL_SECONDS)
            if not self._waits(shared, time.monotonic() - start):
                break
        if self._admission.in_work:
            logger.warning(
                "%d requests are not finished after %.0f s",
                *(self._admission.in_work, self._patience),
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
