"""How many positions of prompts a step may still take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """``shared``: text and pictures take from one another.

    They do where they go in one batch, and where somebody waits for a token, for then the time of
    two batches counts together.
    """

    text: int
    pictures: int
    shared: bool

    def part(self, share: int) -> int:
        """How much one turn may take, of both kinds together: all, or its share of a step."""
        return self.text + self.pictures if share == 1 else max(self.text, self.pictures) // share

    def take_text(self, count: int) -> int:
        """So many positions of text are planned."""
        self.text -= count
        self.pictures -= count * self.shared
        return count

    def take_pictures(self, count: int) -> int:
        """So many positions of pictures are planned."""
        self.pictures -= count
        self.text -= count * self.shared
        return count


def make_budget(text: int, pictures: int, limit: int | None, *, shared: bool) -> Budget:
    """What batches of so many positions have room for, and no more than ``limit`` of both."""
    shared = shared or limit is not None
    text = text if limit is None else min(text, limit)
    return Budget(text, min(pictures, text) if shared else pictures, shared)
