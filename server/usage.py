"""What each client's requests took: processor time, by which the clients wait in turn.

A client is a key's name or an address. Both processes keep an account of each. The web process
charges what decoders, templates and schemas took; the engine charges tokenizing and compiling,
and reports that. With a message the engine gets what the client's account was when it was sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, NamedTuple

# After so many seconds half of what a client took is forgotten.
HALF_LIFE: Final = 60.0
_MOST_CLIENTS: Final = 10_000
_FORGOTTEN: Final = 0.001

# On whose account the work at hand goes: the name of a key, or an address. It is set where a
# request comes in, and travels with its tasks as context variables do. Empty: on nobody's.
account: ContextVar[str] = ContextVar("account", default="")


class Account(NamedTuple):
    """A client, and the seconds that its requests have taken lately."""

    client: str = ""
    seconds: float = 0.0


NOBODY: Final = Account()


class Usage:
    """Seconds of processor time that each client's requests took lately, halved every minute.

    For all threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def charge(self, client: str, seconds: float) -> None:
        """Adds processor time to a client's account."""
        with self._lock:
            self._set(client, self.of(client) + seconds)

    def at_least(self, account: Account) -> None:
        """The client took so much, as another process has counted."""
        with self._lock:
            if account.seconds > self.of(account.client):
                self._set(account.client, account.seconds)

    def of(self, client: str) -> float:
        """What is left of a client's seconds now."""
        seconds, since = self._clients.get(client, (0.0, 0.0))
        return float(seconds * 0.5 ** ((self._clock() - since) / HALF_LIFE))

    def now(self) -> Account:
        """The account of the client that the work at hand is for."""
        client = account.get()
        return Account(client, self.of(client)) if client else NOBODY

    def _set(self, client: str, seconds: float) -> None:
        if len(self._clients) >= _MOST_CLIENTS and client not in self._clients:
            self._forget()
        self._clients[client] = (seconds, self._clock())

    def _forget(self) -> None:
        """Drops the clients whose account is empty, or else the half that took least."""
        accounts = sorted((self.of(client), client) for client in self._clients)
        for number, (seconds, client) in enumerate(accounts):
            if seconds < _FORGOTTEN or number < _MOST_CLIENTS // 2:
                del self._clients[client]
