"""Which IP addresses a picture may be fetched from.

A list of what is permitted rather than of what is not: what nobody thought of is refused.
"""

from __future__ import annotations

import ipaddress
from typing import Final

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
