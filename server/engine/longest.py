"""How long a piece of work may be expected to take, by the longest one so far."""

from __future__ import annotations

from dataclasses import dataclass

# Nothing is expected sooner, in seconds: machines do other things, too.
LEAST = 1.0


@dataclass(slots=True)
class Longest:
    """The longest piece of work so far: its ``seconds``, and its ``size`` in any unit."""

    seconds: float = 0.0
    size: float = 0.0

    def took(self, seconds: float, size: float) -> None:
        """A piece of work is done."""
        if seconds >= self.seconds:
            self.seconds, self.size = seconds, size

    def expected(self, size: float, unknown: float) -> float:
        """Seconds that one of ``size`` may take; ``unknown`` where there was none yet.

        An encode grows at most with the square of its pixels: that is what attention does.
        """
        if not self.size:
            return unknown
        grown = self.seconds * max(1.0, size / self.size) ** 2
        return max(LEAST, self.seconds, min(grown, unknown))
