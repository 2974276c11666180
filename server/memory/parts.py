"""One line of the plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class PlannedPart:
    """Bytes that one part of the model will take on one device.

    ``estimated``: the sum follows what was measured of other models, and may be off by more
    than rounding.
    """

    part: str
    device: str
    bytes: int
    estimated: bool = False
