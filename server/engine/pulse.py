"""What the engine is at, told to the web process every second by a thread of its own.

A call into llama.cpp that never returns holds up the loop, but not this thread; a process that is
stopped, or a thread that never gives Python's lock back, holds up this one too. The web process
can tell both from a long prefill: it is told how long the work may be expected to take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
