"""Pictures from http(s) URLs: guarded, bounded in bytes and in time.

httpcore is used rather than httpx, for it has no cookies, no proxies from the environment, no
netrc, no decompression and no redirects of its own. What is not there cannot be left on.

Connections to checked addresses only.

A name is looked up once, every address that it has is checked, and the connection is made to
one of those very addresses. A second look-up, which could answer otherwise (DNS rebinding),
never happens. HTTP's Host and TLS's server name stay those of the URL.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import httpcore2
import httpx2
from anyio import fail_after, to_thread

from server import __version__
from server.errors import ImageError
from server.images.options import ImageLimits, check_bytes
from server.images.url_policy import FetchOptions, UrlPolicy

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


MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_HEADERS: Final = (
    ("User-Agent", f"llava-server/{__version__}"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
)
_FAILURES: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    OSError,
)


class Fetcher:
    """Fetches pictures. ``resolve`` and ``network`` are seams for tests."""

    def __init__(
        self,
        options: FetchOptions,
        limits: ImageLimits,
        *,
        resolve: Resolve = resolve,
        network: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        self._options = options
        self._limits = limits
        self._policy = UrlPolicy(options)
        self._resolve = resolve
        self._network = network or httpcore2.AnyIOBackend()
        self._ssl: ssl.SSLContext | None = None

    async def fetch(self, url: str, param: str | None) -> bytes:
        """The file behind ``url``, at most ``limits.max_bytes`` bytes, at least one.

        Raises ImageError with ``param``: refused (``image_url_not_allowed``,
        ``image_address_not_allowed``), ``image_fetch_timeout``, ``image_fetch_failed``, or
        ``image_too_large``. No message repeats the URL, an address, or what a host answered.
        """
        seconds = self._options.timeout
        try:
            with fail_after(seconds):
                return await self._follow(url, param)
        except TimeoutError as error:
            message = f"The picture could not be fetched within {seconds:g} seconds."
            raise ImageError(message, param=param, code="image_fetch_timeout") from error
        except _FAILURES as error:
            raise _failed("The picture's host cannot be reached, or breaks off.", param) from error

    async def _follow(self, url: str, param: str | None) -> bytes:
        place = self._policy.parse(url, param)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._get(place, param)
            if isinstance(answer, bytes):
                return answer
            place = self._policy.parse(answer, param, base=place)
        raise _failed(f"The picture's URL redirects more than {MAX_REDIRECTS} times.", param)

    async def _get(self, url: httpx2.URL, param: str | None) -> bytes | str:
        """The body, or where it is said to be instead."""
        backend = GuardedBackend(self._policy, self._resolve, self._network, param)
        target = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        headers = [("Host", url.netloc.decode("ascii")), *_HEADERS]
        tls = await self._tls() if url.scheme == "https" else None
        # One connection for one request: nothing of one client's fetch is left for another's.
        async with (
            httpcore2.AsyncConnectionPool(tls, network_backend=backend) as pool,
            pool.stream("GET", target, headers=headers) as response,
        ):
            if response.status in _REDIRECTS:
                return _header(response, b"location")
            if response.status != 200:
                raise _failed("The picture's host has no picture under this URL.", param)
            if _header(response, b"content-encoding").lower() not in ("", "identity"):
                raise _failed("The picture's host compresses it although asked not to.", param)
            return await self._read(response, param)

    async def _read(self, response: httpcore2.Response, param: str | None) -> bytes:
        declared = _header(response, b"content-length")
        if declared.isdecimal():
            check_bytes(int(declared[:20]) or 1, self._limits, param)
        data = bytearray()
        async for chunk in response.aiter_stream():
            data += chunk
            check_bytes(len(data) or 1, self._limits, param)
        check_bytes(len(data), self._limits, param)
        return bytes(data)

    async def _tls(self) -> ssl.SSLContext:
        # Reading the certificates takes tens of milliseconds, so not on the event loop.
        if self._ssl is None:
            self._ssl = await to_thread.run_sync(httpcore2.default_ssl_context)
        return self._ssl


def _header(response: httpcore2.Response, name: bytes) -> str:
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("latin-1").strip() if values else ""


def _failed(why: str, param: str | None) -> ImageError:
    return ImageError(why, param=param, code="image_fetch_failed")
