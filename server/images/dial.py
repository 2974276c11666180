"""Connections to checked addresses only.

A name is looked up once, every address that it has is checked, and the connection is made to
one of those very addresses. A second look-up, which could answer otherwise (DNS rebinding),
never happens. HTTP's Host and TLS's server name stay those of the URL.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import httpcore2
from anyio import to_thread

from server.errors import ImageError
from server.images.url_policy import UrlPolicy

# Looks a host up: its addresses as text, best first. Raises OSError for a host that has none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
# A host with several addresses, of which one is dead, must not use up all the time there is.
_CONNECT_SECONDS: Final = 3.0
_MOST_ADDRESSES: Final = 4


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system. All spellings of an address end here too: ``0x7f.1`` is 127.0.0.1."""

    def look_up() -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    return await to_thread.run_sync(look_up, abandon_on_cancel=True)


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """httpcore's way to the network, for one fetch. ``inner`` is given addresses, never names."""

    def __init__(
        self,
        policy: UrlPolicy,
        resolve: Resolve,
        inner: httpcore2.AsyncNetworkBackend,
        param: str | None,
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._inner = inner
        self._param = param

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers. Raises ImageError if any is refused."""
        del timeout, local_address, socket_options  # ours are stricter
        failure: Exception = httpcore2.ConnectError("no address")
        for address in await self._addresses(host, port):
            try:
                return await self._inner.connect_tcp(address, port, timeout=_CONNECT_SECONDS)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # names too long for IDNA are a UnicodeError
            raise httpcore2.ConnectError("no such host") from error
        if not all(self._policy.permits_address(address) for address in addresses):
            raise ImageError(
                "The host of the picture's URL is not a public one.",
                param=self._param,
                code="image_address_not_allowed",
            )
        return addresses[:_MOST_ADDRESSES]
