"""What the engine is doing, sent to the web process every second by a thread of its own.

A call into llama.cpp that never returns blocks the loop, but not this thread. A stopped process, or
a thread that never releases Python's lock, blocks this thread too. The web process can tell both
from a long prefill, because each heartbeat says how long the work was expected to take.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from server.messages import Heartbeat

INTERVAL = 1.0
_IDLE = Heartbeat("nothing", 0.0, 0.0)


class Work(NamedTuple):
    """Something that began at ``since`` (time.monotonic) and should take ``expected`` seconds."""

    what: str
    since: float
    expected: float


class CurrentWork(dict[str, Work]):
    """The work in progress by part of the engine ("loop", "encoder"); a part that waits has none.

    A dictionary, because every step writes to it and nothing but the heartbeat reads it.
    """

    def beat(self) -> Heartbeat:
        """The work that is the most seconds overdue."""
        now = time.monotonic()
        beats = [Heartbeat(w.what, now - w.since, w.expected) for w in list(self.values())]
        return max(beats, key=lambda beat: beat.age - beat.expected, default=_IDLE)

    def start(self, send: Callable[[Any], None]) -> None:
        """Sends a heartbeat every second, until the line is closed."""

        def beat_on() -> None:
            with suppress(OSError):
                while True:
                    send(self.beat())
                    time.sleep(INTERVAL)

        threading.Thread(target=beat_on, name="heartbeat", daemon=True).start()


# Nothing is expected to take less, in seconds: the machine does other things, too.
MIN_SECONDS = 1.0
# Work that takes more than so many times its expected time was not work: the machine or container
# was stopped meanwhile. The watch (server.engine_client.watch) gives up after the same factor.
MAX_OVERRUN = 10.0
_REMEMBERED = 64


@dataclass(slots=True)
class TimeEstimate:
    """Expects of the next piece of work what the slowest of the last ones took.

    ``seconds`` and ``size`` (in any unit) are those of the slowest one.
    """

    seconds: float = 0.0
    size: float = 0.0
    _last: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def observe(self, seconds: float, size: float, *, part: bool = False) -> None:
        """Adds a finished piece of work, or another ``part`` of the last one. A piece that was
        held up counts up to MAX_OVERRUN times its expected time, until newer pieces replace it.
        """
        if self.size:
            seconds = min(seconds, MAX_OVERRUN * self.expected(size, seconds))
        if part and self._last and seconds < self._last[-1][0]:
            return
        if part and self._last:
            self._last.pop()
        self._last.append((seconds, size))
        # Of equally slow ones the last.
        self.seconds, self.size = max(reversed(self._last), key=lambda piece: piece[0])

    def expected(self, size: float, unknown: float) -> float:
        """Seconds that a piece of ``size`` may take; ``unknown`` if none was observed yet.

        An encode grows at most with the square of its pixels: that is what attention does.
        """
        if not self.size:
            return unknown
        grown = self.seconds * max(1.0, size / self.size) ** 2
        return max(MIN_SECONDS, self.seconds, min(grown, unknown))
