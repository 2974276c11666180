"""Limits of each caller: requests in a time, and requests at the same time."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import Counter

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.http.errors import error_response
from server.api.middleware.auth import is_open
from server.api.options import CallerLimits
from server.errors import LlavaError, Overloaded
from server.metrics import Metrics
from server.settings.key_file import Key


class Rates:
    """Counts each key's requests; where there are no keys, each client address's.

    Addresses of IPv6 count by their network of 64 bits, which is what one household gets.
    """

    def __init__(self, app: ASGIApp, limits: CallerLimits, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._items: dict[str, RateLimitItem] = {}
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if is_open(scope):
            await self._app(scope, receive, send)
            return
        key: Key | None = scope.get("state", {}).get("key")
        who = f"key {key.name}" if key else _address(scope)
        error = self._refusal(who, key)
        if error is not None:
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, send)
            return
        self._running[who] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[who] -= 1
            if not self._running[who]:
                del self._running[who]

    def _refusal(self, who: str, key: Key | None) -> LlavaError | None:
        most = (key and key.concurrency) or self._limits.concurrency
        if most and self._running[who] >= most:
            code = "concurrency_limit_exceeded"
            return Overloaded(f"{most} requests of yours are running already", code=code)
        rate = (key and key.rate) or self._limits.rate
        if not rate:
            return None
        item = self._items.get(rate) or self._items.setdefault(rate, parse(rate))
        if self._limiter.hit(item, who):
            return None
        error = Overloaded(f"more than {rate}: try again later", code="rate_limit_exceeded")
        reset, _ = self._limiter.get_window_stats(item, who)
        error.retry_after = max(1, math.ceil(reset - time.time()))
        return error


def _address(scope: Scope) -> str:
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return str(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
