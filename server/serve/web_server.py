"""uvicorn as we run it: our protocol, our signals, TLS, and the proxies that are trusted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from server.errors import ConfigError
from server.serve.http_protocol import ClientLimits, Connections, guarded
from server.serve.listener import Listener, tune

# Requests that were cut off get so long to clean up behind them.
CLEAN_UP_SECONDS = 2


@dataclass(slots=True, frozen=True)
class WebOptions:
    """How the app is put on the net.

    Without ``key_file`` and ``cert_file`` there is no TLS. Only ``trusted_proxies`` (addresses or
    networks) may name the client that they forward for. A connection may be idle between two
    requests for ``keep_alive`` seconds: longer than proxies keep theirs, or they send a request
    into one that is just being closed.
    """

    clients: ClientLimits = field(default_factory=ClientLimits)
    cert_file: Path | None = None
    key_file: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    keep_alive: float = 95.0


class WebServer(uvicorn.Server):
    """Serves an app on one socket until it is stopped."""

    def __init__(self, app: Any, listener: Listener, options: WebOptions) -> None:
        self.listener = listener
        self.connections = Connections(options.clients.max_connections)
        proxies = list(options.trusted_proxies)
        config = uvicorn.Config(
            app,
            http=guarded(options.clients, self.connections),
            ws="none",
            lifespan="off",  # the app starts and stops nothing
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            timeout_keep_alive=options.keep_alive,  # type: ignore[arg-type]
            timeout_graceful_shutdown=CLEAN_UP_SECONDS,
            ssl_certfile=options.cert_file,
            ssl_keyfile=options.key_file,
        )
        super().__init__(config)
        self._options = options
        self._load()
        tune(listener.socket, options.clients.timeout)

    def _load(self) -> None:
        try:
            self.config.load()
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"--ssl-cert-file, --ssl-key-file: {reason}") from None

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return "https" if self._options.cert_file else "http"

    def reload_certificate(self) -> None:
        """Reads certificate and key again; connections from now on are shown the new one.

        Raises:
            ConfigError: they cannot be read; the old ones stay.
        """
        if self.config.ssl is None or self._options.cert_file is None:
            return
        try:
            # A bad pair must not spoil the context in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self._options.cert_file, self._options.key_file
            )
            self.config.ssl.load_cert_chain(self._options.cert_file, self._options.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--ssl-cert-file, --ssl-key-file: {error}") from None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, but TLS handshakes have the time that clients have for anything."""
        assert sockets, "nothing but our listener is served"
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        patience = (self._options.clients.timeout or None) if self.config.ssl else None
        self.servers = [
            await asyncio.get_running_loop().create_server(
                self._connected,
                sock=each,
                ssl=self.config.ssl,
                backlog=self.config.backlog,
                ssl_handshake_timeout=patience,
            )
            for each in sockets
        ]
        self.started = True

    def _connected(self) -> asyncio.Protocol:
        """For a connection that comes: what speaks HTTP on it."""
        speaker: Any = self.config.http_protocol_class
        state = self.lifespan.state
        return speaker(config=self.config, server_state=self.server_state, app_state=state)  # type: ignore[no-any-return]

    async def run_until_stopped(self) -> None:
        """Accepts and serves; returns once ``stop`` was called and all is closed."""
        await self.serve(sockets=[self.listener.socket])

    async def stop_accepting(self) -> None:
        """Leaves new connections to the server that shares the socket.

        Those that wait to be accepted on a port of our own are taken first.
        """
        for _ in range(3):
            await asyncio.sleep(0.01)
        for server in getattr(self, "servers", ()):
            server.close()

    def stop(self, *, now: bool = False) -> None:
        """Ends serving; ``now``: without waiting for requests."""
        self.force_exit = self.force_exit or now
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are not uvicorn's: it would raise them again on the way out."""
        yield
