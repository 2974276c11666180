"""How long a piece of work may be expected to take, by the longest of the last ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Nothing is expected sooner, in seconds: machines do other things, too.
LEAST = 1.0
# What takes more than so many times what was expected was no work: the machine, or a container, was
# stopped meanwhile. The watch (server.engine_watch) has no more patience either.
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
