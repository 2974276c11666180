"""Limits of each caller: requests in a time, and requests at the same time."""

from __future__ import annotations

import math
import time
from collections import Counter

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import error_response
from server.api.http.record import address_of
from server.api.middleware.auth import is_open
from server.api.options import CallerLimits
from server.errors import LlavaError, Overloaded
from server.metrics import Metrics
from server.settings.key_file import Key


class Rates:
    """Counts each key's requests; where there are no keys, each client address's.

    Addresses of IPv6 count by their network of 64 bits, which is what one household gets. Where
    there is a rate, answers say how much of it is left.
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
        who = f"key {key.name}" if key else address_of(scope)
        error, rate = self._refusal(who, key), self._rate(key)

        async def send_with_rate(message: Message) -> None:
            if rate is not None and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers(rate, who))
            await send(message)

        if error is not None:
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, send_with_rate)
            return
        self._running[who] += 1
        try:
            await self._app(scope, receive, send_with_rate)
        finally:
            self._running[who] -= 1
            if not self._running[who]:
                del self._running[who]

    def _refusal(self, who: str, key: Key | None) -> LlavaError | None:
        most = (key and key.concurrency) or self._limits.concurrency
        if most and self._running[who] >= most:
            code = "concurrency_limit_exceeded"
            return Overloaded(f"{most} requests of yours are running already", code=code)
        item = self._rate(key)
        if item is None or self._limiter.hit(item, who):
            return None
        limit = (key and key.rate) or self._limits.rate
        error = Overloaded(f"more than {limit}: try again later", code="rate_limit_exceeded")
        error.retry_after = self._reset(item, who)
        return error

    def _rate(self, key: Key | None) -> RateLimitItem | None:
        rate = (key and key.rate) or self._limits.rate
        if not rate:
            return None
        return self._items.get(rate) or self._items.setdefault(rate, parse(rate))

    def _reset(self, item: RateLimitItem, who: str) -> int:
        reset, _ = self._limiter.get_window_stats(item, who)
        return max(1, math.ceil(reset - time.time()))

    def _headers(self, item: RateLimitItem, who: str) -> dict[str, str]:
        """As OpenAI names them; the reset is when the oldest request no longer counts."""
        _, left = self._limiter.get_window_stats(item, who)
        return {
            "x-ratelimit-limit-requests": str(item.amount),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": f"{self._reset(item, who)}s",
        }
