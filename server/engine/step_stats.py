"""When a step tells the engine's statistics, too."""

from __future__ import annotations

import time

# Prometheus asks every few seconds; a step may take a few milliseconds.
SECONDS_BETWEEN = 0.05


class StatsClock:
    """Statistics are told when requests came or went, when none is left, and else a few times a
    second. Nobody may come for hours after the last one: what it has changed is told at once, also
    where it came and went within one step.

    To fill them in, send and read them takes longer than all else that a lone stream's step costs
    us, and nobody looks that often.
    """

    def __init__(self) -> None:
        self._told = 0.0
        self._requests = (-1, -1)

    def due(self, num_running: int, num_waiting: int) -> bool:
        """Whether this step tells them; they count as told then."""
        now, requests = time.monotonic(), (num_running, num_waiting)
        if any(requests) and requests == self._requests and now - self._told < SECONDS_BETWEEN:
            return False
        self._told, self._requests = now, requests
        return True
