"""A web on loopback: hosts that serve what a test says, and a network that leads only there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpcore2

PUBLIC = "93.184.216.34"
ALSO_PUBLIC = "2606:4700:4700::1111"

Page = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def page(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer; ``content_length=...`` and the like replace what is true."""
    lines = {"content-length": str(len(body)), "content-type": "image/png"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """An answer that leads elsewhere."""
    return page(b"look there", status, location=location)


class Web(httpcore2.AsyncNetworkBackend):
    """Pages by path, names with their addresses, and a note of all that was asked.

    Every connection ends at the one server on loopback; ``dialled`` holds the addresses that the
    fetcher meant. A name's addresses are lists, one for each look-up; the last one stays.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.names: dict[str, list[Sequence[str]]] = {"pictures.test": [[PUBLIC]]}
        self.dialled: list[tuple[str, int]] = []
        self.looked_up: list[str] = []
        self.requests: list[str] = []
        self.server_names: list[str | None] = []
        self.contexts: list[ssl.SSLContext] = []
        self.sent = 0
        self.port = 0
        self.dead: set[str] = set()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The seam in place of the system's resolver."""
        self.looked_up.append(host)
        answers = self.names.get(host)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """The seam in place of the network."""
        self.dialled.append((host, port))
        if host in self.dead:
            raise httpcore2.ConnectError("nobody there")
        stream = await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout)
        return _Stream(self, stream)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            answer = self.pages.get(request.split()[1], page(b"no", "404 Not Found"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Write, and count what was taken."""
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection on which TLS is only noted."""

    def __init__(self, web: Web, stream: httpcore2.AsyncNetworkStream) -> None:
        self._web = web
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self._web.server_names.append(server_hostname)
        self._web.contexts.append(ssl_context)
        return self

    def get_extra_info(self, info: str) -> Any:
        return None if info == "ssl_object" else self._stream.get_extra_info(info)


@asynccontextmanager
async def serving(web: Web) -> AsyncIterator[Web]:
    """The web, as long as the block."""
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if getattr(task.get_coro(), "__name__", "") == "serve":
                task.cancel()
        await asyncio.sleep(0.01)
