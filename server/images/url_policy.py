"""Which URLs may be fetched: schemes, hosts and ports, checked anew at every hop.

Which IP addresses a picture may be fetched from.

A list of what is permitted, so that all else is refused.

By hand: the address that is checked has to be the one that is then connected to, at every hop and
inside our own HTTP client.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, NoReturn

import httpx2

from server.errors import ConfigError, ImageError

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# IANA's special-purpose registries (RFC 6890 and successors). The standard library's is_global
# is not used, for its answers differ between the Python versions that we support.
_NOT_PUBLIC_V4: Final = _networks(
    "0.0.0.0/8",  # this network; on Linux 0.0.0.0 is this very machine
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, where clouds answer with credentials
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
# Of IPv6 only what is handed out as global unicast: so no loopback, no link-local, unique-local
# or multicast address, none that stands for an IPv4 address (::ffff:0:0/96), and no NAT64.
_GLOBAL_V6: Final = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC_V6: Final = _networks(
    "2001::/23",  # protocol assignments, Teredo among them
    "2001:db8::/32",
    "2002::/16",  # 6to4: an IPv4 address in disguise
    "2620:4f:8000::/48",
    "3fff::/20",
)
_PRIVATE: Final = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
)


def is_public(address: str) -> bool:
    """Whether ``address`` is reachable from everywhere; False for what is not an address."""
    ip = _parse(address)
    if ip is None:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_V4)
    return ip in _GLOBAL_V6 and not any(ip in network for network in _NOT_PUBLIC_V6)


def is_private(address: str) -> bool:
    """Whether ``address`` belongs to this machine or to a private network.

    Link-local addresses do not count: no picture lives there, but cloud credentials do.
    """
    ip = _parse(address)
    return ip is not None and any(ip in network for network in _PRIVATE)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


NOT_ALLOWED: Final = "image_url_not_allowed"
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 8192


@dataclass(slots=True, frozen=True)
class FetchOptions:
    """The operator's choices about http(s) URLs. Off by default.

    ``allow`` are hosts as ``name``, ``name:port`` or ``[address]:port``: if there are any, only
    these are fetched from, and they may be private. ``timeout`` is in seconds and covers
    everything, redirects included; ``at_once`` is how many fetches run at the same time.

    Raises ConfigError for a host that cannot be read, or a number that is not positive.
    """

    enabled: bool = False
    allow: tuple[str, ...] = ()
    timeout: float = 10.0
    at_once: int = 16

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.at_once < 1:
            raise ConfigError("--image-fetch-timeout: must be more than 0")
        for entry in self.allow:
            _read_host(entry)


class UrlPolicy:
    """Decides on URLs and on the addresses that their hosts turn out to have."""

    def __init__(self, options: FetchOptions) -> None:
        self._allow = frozenset(map(_read_host, options.allow))

    def parse(self, url: str, param: str | None, base: httpx2.URL | None = None) -> httpx2.URL:
        """The URL, which may be relative to ``base``. Raises ImageError where it is refused."""
        if len(url) > _LONGEST:
            _refuse(f"The picture's URL is longer than {_LONGEST} characters.", param)
        try:
            parsed = base.join(url) if base is not None else httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as error:
            message = "The picture's URL is not a valid URL."
            raise ImageError(message, param=param, code="unsupported_image_url") from error
        if parsed.scheme not in _PORTS:
            _refuse("The picture's URL leads to something else than http or https.", param)
        if parsed.userinfo:
            _refuse("URLs with a user name or password are not fetched.", param)
        if not parsed.host:
            _refuse("The picture's URL names no host.", param)
        self._check_place(parsed, param)
        return parsed

    def _check_place(self, url: httpx2.URL, param: str | None) -> None:
        host, port = _host(url), _PORTS[url.scheme] if url.port is None else url.port
        usual = port in _PORTS.values()
        if not self._allow:
            if not usual:
                _refuse("Pictures are fetched from the ports 80 and 443 only.", param)
        elif (host, port) not in self._allow and not (usual and (host, None) in self._allow):
            _refuse("Pictures are not fetched from this host (--image-url-allow).", param)

    def permits_address(self, address: str) -> bool:
        """Whether a connection may be made; a host that the operator named may be private."""
        return is_public(address) or (bool(self._allow) and is_private(address))


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _read_host(entry: str) -> tuple[str, int | None]:
    try:
        url = httpx2.URL(f"any://{entry}")
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL("")
    if not url.host or url.userinfo or url.raw_path not in (b"", b"/") or "*" in entry:
        raise ConfigError(f"--image-url-allow: {entry!r} is not a host or host:port")
    return _host(url), url.port


def _refuse(why: str, param: str | None) -> NoReturn:
    raise ImageError(why, param=param, code=NOT_ALLOWED)
