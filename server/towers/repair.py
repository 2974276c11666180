"""Putting libmtmd's rows right where the class token's output took a patch's place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
