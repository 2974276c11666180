"""Faults: what libmtmd gets wrong for LLaVA, as the self-test found it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NAMES = ("class_position", "dropped_patch", "skipped_layer", "unknown")


@dataclass(slots=True, frozen=True)
class TowerFaults:
    """The faults for one kind of tower.

    ``class_position``: patches and class token get each other's positions. ``dropped_patch``: the
    first patch is missing and the class token's output is the last row. ``skipped_layer``: the
    last stored layer does not run. ``unknown``: the result fits no combination of these, or undoing
    them did not help; then the others are False.
    """

    class_position: bool = False
    dropped_patch: bool = False
    skipped_layer: bool = False
    unknown: bool = False

    def names(self) -> tuple[str, ...]:
        """The names of those that are True, in the order above."""
        return tuple(name for name in _NAMES if getattr(self, name))


@dataclass(slots=True, frozen=True)
class Faults:
    """What the self-test found, for towers with a class token (CLIP) and without (SigLIP)."""

    with_class: TowerFaults = TowerFaults()
    without_class: TowerFaults = TowerFaults()

    def of(self, has_class_token: bool) -> TowerFaults:
        """Those that concern one kind of tower."""
        return self.with_class if has_class_token else self.without_class

    def names(self) -> tuple[str, ...]:
        """All names, each once."""
        found = {*self.with_class.names(), *self.without_class.names()}
        return tuple(name for name in _NAMES if name in found)


def repair_rows(rows: NDArray[np.float32], n_patches: int) -> NDArray[np.float32]:
    """Per tile, drops the last row (the class token) and puts a first patch in front.

    That patch was never computed: its right neighbour stands in for it. ``rows`` is float32
    [k * n_patches, n_out] of k tiles and stays as it is; the result has the same shape.

    Raises ValueError where the rows are not whole tiles of at least two patches.
    """
    if n_patches < 2 or len(rows) % n_patches:
        raise ValueError(f"{len(rows)} rows are no tiles of {n_patches} patches")
    tiles = rows.reshape(-1, n_patches, rows.shape[-1])
    repaired = np.empty_like(tiles)
    repaired[:, 1:] = tiles[:, :-1]
    repaired[:, 0] = tiles[:, 0]
    return repaired.reshape(rows.shape)
