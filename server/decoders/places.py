"""Who decodes next: two lanes, and in each the client who took least goes first.

The threads of the web process use it too, with the fast lane alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from server.usage import Usage


class Place:
    """A right to work, in one of the lanes, or the wait for it."""

    def __init__(self, client: str, *, slow: bool, now: float) -> None:
        self.client = client
        self.slow = slow
        self.since = now
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Places:
    """``fast`` places, and ``slow`` ones for what turned out to take long. A client may hold
    ``most_of_one`` places of a lane, however many are free.

    Short work never waits behind long work: what takes long moves to the slow lane if that has a
    place, or goes back and waits for one. Lives on one event loop.
    """

    def __init__(
        self,
        fast: int,
        slow: int,
        usage: Usage,
        clock: Callable[[], float] = time.monotonic,
        *,
        most_of_one: int | None = None,
    ) -> None:
        self._most = {False: fast, True: slow}
        self._most_of_one = most_of_one or max(fast, slow)
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
            while len(self._running[slow]) < self._most[slow]:
                may = [place for place in waiting if self._may_run(place)]
                if not may:
                    break
                # Once for each client: it becomes less with time, and the last would be the first.
                taken = {client: self._taken(client) for client in {one.client for one in may}}
                # The first of those who took least; min() keeps the order of arrival.
                place = min(may, key=lambda one: taken[one.client])
                waiting.remove(place)
                if not place.granted.done():
                    place.since = self._clock()
                    self._running[slow].add(place)
                    place.granted.set_result(None)

    def _may_run(self, place: Place) -> bool:
        running = sum(one.client == place.client for one in self._running[place.slow])
        return running < self._most_of_one

    def _taken(self, client: str) -> float:
        """With what runs now, or a client could fill all places before anything is charged."""
        now = self._clock()
        running = (one for lane in self._running.values() for one in lane if one.client == client)
        return self._usage.of(client) + sum(now - one.since for one in running)
