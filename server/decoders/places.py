"""Who decodes next: two lanes, and in each the client who took least goes first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

# After so many seconds half of what a client took is forgotten.
HALF_LIFE: Final = 60.0
_MOST_CLIENTS: Final = 10_000
_FORGOTTEN: Final = 0.001


class Usage:
    """Seconds of processor time that each client's requests took lately, halved every minute.

    A client is a key's name or an address. What takes processor time outside of a decoder (a
    grammar, a template, a long text) is charged here too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, tuple[float, float]] = {}

    def charge(self, client: str, seconds: float) -> None:
        """Adds processor time to a client's account."""
        if len(self._clients) >= _MOST_CLIENTS and client not in self._clients:
            self._forget()
        self._clients[client] = (self.of(client) + seconds, self._clock())

    def of(self, client: str) -> float:
        """What is left of a client's seconds now."""
        seconds, since = self._clients.get(client, (0.0, 0.0))
        return float(seconds * 0.5 ** ((self._clock() - since) / HALF_LIFE))

    def _forget(self) -> None:
        """Drops the clients whose account is empty, or else the half that took least."""
        accounts = sorted((self.of(client), client) for client in self._clients)
        for number, (seconds, client) in enumerate(accounts):
            if seconds < _FORGOTTEN or number < _MOST_CLIENTS // 2:
                del self._clients[client]


class Place:
    """A right to decode, in one of the lanes, or the wait for it."""

    def __init__(self, client: str, *, slow: bool, now: float) -> None:
        self.client = client
        self.slow = slow
        self.since = now
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Places:
    """``fast`` places, and ``slow`` ones for what turned out to take long.

    Short work never waits behind long work: what takes long moves to the slow lane if that has a
    place, or goes back and waits for one. Lives on one event loop.
    """

    def __init__(
        self,
        fast: int,
        slow: int,
        usage: Usage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = {False: fast, True: slow}
        self._usage = usage
        self._clock = clock
        self._running: dict[bool, set[Place]] = {False: set(), True: set()}
        self._waiting: dict[bool, list[Place]] = {False: [], True: []}

    @property
    def crowded(self) -> bool:
        """Whether a client waits for a fast place."""
        return bool(self._waiting[False])

    @property
    def waiting(self) -> int:
        """How many wait, in both lanes."""
        return sum(map(len, self._waiting.values()))

    async def take(self, client: str, *, slow: bool = False) -> Place:
        """A place, once it is this client's turn."""
        place = Place(client, slow=slow, now=self._clock())
        self._waiting[slow].append(place)
        self._grant()
        try:
            await place.granted
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting[slow].remove(place)
            self.release(place)
            raise
        return place

    def release(self, place: Place) -> None:
        """Gives a place back; nothing happens if it was given back already."""
        self._running[place.slow].discard(place)
        self._grant()

    def slow_down(self, place: Place) -> bool:
        """Moves a fast place to the slow lane; False if that is full."""
        if len(self._running[True]) >= self._most[True] or self._waiting[True]:
            return False
        self._running[False].discard(place)
        self._running[True].add(place)
        place.slow = True
        self._grant()
        return True

    def _grant(self) -> None:
        for slow, waiting in self._waiting.items():
            while waiting and len(self._running[slow]) < self._most[slow]:
                # The first of those who took least; min() keeps the order of arrival.
                place = min(waiting, key=lambda one: self._taken(one.client))
                waiting.remove(place)
                if not place.granted.done():
                    place.since = self._clock()
                    self._running[slow].add(place)
                    place.granted.set_result(None)

    def _taken(self, client: str) -> float:
        """With what runs now, or a client could fill all places before anything is charged."""
        now = self._clock()
        running = (one for lane in self._running.values() for one in lane if one.client == client)
        return self._usage.of(client) + sum(now - one.since for one in running)
