"""How much prefill a step may carry while somebody waits for the next token."""

from __future__ import annotations

# llama.cpp's cost per position hardly falls below this many in a batch (measured, see docs).
SMALLEST_CHUNK = 16
_WEIGHT = 0.2


class Pace:
    """Bounds prefill chunks by time: ``target`` seconds a step, at the speed measured so far."""

    def __init__(self, target: float, positions_per_second: float) -> None:
        self.target = target
        self.speed = positions_per_second

    @property
    def chunk(self) -> int:
        """Positions that take about ``target`` seconds, but no fewer than make sense."""
        return max(SMALLEST_CHUNK, int(self.target * self.speed))

    def observe(self, positions: int, seconds: float) -> None:
        """A batch of so many positions took so long. Small ones say nothing about prefill."""
        if positions >= SMALLEST_CHUNK and seconds > 0:
            self.speed += _WEIGHT * (positions / seconds - self.speed)
