"""Where things may go: boxes in a picture that do not overlap."""

from __future__ import annotations

from random import Random


class Layout:
    """Places boxes in a picture without overlap. Lengths are fractions of the longer side."""

    def __init__(self, rng: Random, width: int, height: int) -> None:
        self.rng = rng
        longer = max(width, height)
        self.extent = (width / longer, height / longer)
        self.taken: list[tuple[float, float, float, float]] = []

    def put(self, half_x: float, half_y: float) -> tuple[float, float] | None:
        """The centre of a free box, as fractions of the picture, or None if there is no room."""
        for _ in range(30):
            place = self._try(half_x + 0.01, half_y + 0.01)
            if place is not None:
                return place
        return None

    def _try(self, half_x: float, half_y: float) -> tuple[float, float] | None:
        wide, high = self.extent
        if 2 * half_x > wide or 2 * half_y > high:
            return None
        x = self.rng.uniform(half_x, wide - half_x)
        y = self.rng.uniform(half_y, high - half_y)
        if self.rng.random() < 0.2:  # exactly in the middle, as programmers like it
            x, y = wide / 2, high / 2
        u, v = x / wide, y / high
        nearest = min(abs(part - edge) for part in (u, v) for edge in (1 / 3, 2 / 3))
        if nearest < 0.03 and self.rng.random() < 0.8:  # mostly one of the nine places is meant
            return None
        for ox, oy, ohx, ohy in self.taken:
            if abs(x - ox) < half_x + ohx and abs(y - oy) < half_y + ohy:
                return None
        self.taken.append((x, y, half_x, half_y))
        return u, v
