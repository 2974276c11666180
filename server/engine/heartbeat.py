"""What the engine is at, told to the web process every second by a thread of its own.

A call into llama.cpp that never returns holds up the loop, but not this thread; a process that is
stopped, or a thread that never gives Python's lock back, holds up this one too. The web process
can tell both from a long prefill: it is told how long the work may be expected to take.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from server.messages import Heartbeat

INTERVAL = 1.0
_IDLE = Heartbeat("nothing", 0.0, 0.0)


class Pulse:
    """The work in progress, by the part of the engine that is at it ("loop", "encoder")."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[str, float, float]] = {}

    def begin(self, part: str, what: str, expected: float) -> None:
        """The part begins something that should take about ``expected`` seconds, or less."""
        self._at[part] = (what, time.monotonic(), expected)

    def end(self, part: str) -> None:
        """The part waits for work."""
        self._at.pop(part, None)

    def beat(self) -> Heartbeat:
        """What takes longest beyond its time."""
        now = time.monotonic()
        beats = [
            Heartbeat(what, now - since, expected)
            for what, since, expected in list(self._at.values())
        ]
        return max(beats, key=lambda beat: beat.age - beat.expected, default=_IDLE)

    def start(self, send: Callable[[Any], None]) -> None:
        """Sends a heartbeat every second, until the line is closed."""

        def beat_on() -> None:
            with suppress(OSError):
                while True:
                    send(self.beat())
                    time.sleep(INTERVAL)

        threading.Thread(target=beat_on, name="heartbeat", daemon=True).start()


# Nothing is expected sooner, in seconds: machines do other things, too.
LEAST = 1.0
# What takes more than so many times what was expected was no work: the machine, or a container, was
# stopped meanwhile. The watch (server.engine_client.watch) has no more patience either.
MOST = 10.0
# Pieces that are remembered.
_KEPT = 64


@dataclass(slots=True)
class Longest:
    """The longest of the last pieces of work: its ``seconds``, and its ``size`` in any unit."""

    seconds: float = 0.0
    size: float = 0.0
    _last: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def took(self, seconds: float, size: float, *, part: bool = False) -> None:
        """A piece of work is done, or another ``part`` of the last one. What was held up counts as
        far as it can have been work, and is forgotten in time.
        """
        if self.size:
            seconds = min(seconds, MOST * self.expected(size, seconds))
        if part and self._last and seconds < self._last[-1][0]:
            return
        if part and self._last:
            self._last.pop()
        self._last.append((seconds, size))
        # Of equally long ones the last.
        self.seconds, self.size = max(reversed(self._last), key=lambda piece: piece[0])

    def expected(self, size: float, unknown: float) -> float:
        """Seconds that one of ``size`` may take; ``unknown`` where there was none yet.

        An encode grows at most with the square of its pixels: that is what attention does.
        """
        if not self.size:
            return unknown
        grown = self.seconds * max(1.0, size / self.size) ** 2
        return max(LEAST, self.seconds, min(grown, unknown))
