"""Who asks: the name of the API key that the request at hand came with, or an address."""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar

from starlette.types import Scope

# Empty where no key is needed. What a caller keeps here belongs to the name, not to the key, so
# that a key can be exchanged for a new one.
caller: ContextVar[str] = ContextVar("caller", default="")

# On whose account the request's work goes: the key's, or the address's where there are no keys.
account: ContextVar[str] = ContextVar("account", default="")


def account_of(scope: Scope) -> str:
    """The account of a request that came through ``Access``."""
    name = caller.get()
    return f"key {name}" if name else address_of(scope)


def address_of(scope: Scope) -> str:
    """The client's address; of IPv6 the network of 64 bits, which is what one household gets."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return str(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
