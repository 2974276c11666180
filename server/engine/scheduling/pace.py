"""How much prefill a step may carry while a request decodes."""

from __future__ import annotations

# llama.cpp's cost per position hardly falls below this many in a batch (measured, see docs).
SMALLEST_CHUNK = 16
_WEIGHT = 0.2


class Pace:
    """Bounds prefill chunks by time: a step of ``target`` seconds, at the speed seen so far."""

    def __init__(self, target: float, positions_per_second: float) -> None:
        self.target = target
        self.speed = positions_per_second
        self.decode_seconds = 0.0
        # A slice of an encode came before this step, so it is for decodes only.
        self.hurried = False

    @property
    def chunk(self) -> int:
        """Positions that take what decodes leave of ``target``, but no fewer than make sense."""
        if self.hurried:
            return 0
        left = self.target - self.decode_seconds
        return max(SMALLEST_CHUNK, int(left * self.speed))

    def observe(self, positions: int, seconds: float) -> None:
        """A batch of so many positions took so long; small ones are decodes, not prefill."""
        self.hurried = self.hurried and not positions
        if positions >= SMALLEST_CHUNK and seconds > 0:
            self.speed += _WEIGHT * (positions / seconds - self.speed)
        elif positions:
            self.decode_seconds += _WEIGHT * (seconds - self.decode_seconds)
