"""The position table of a ViT for another resolution.

Computed as torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=shrinks)
does: that is what models are trained and fine-tuned with. When shrinking, the cubic (a = -0.5) is
as wide as the old patches that fall on a new one, and its weights at the border sum to 1 (Pillow's
way); when enlarging, the cubic (a = -0.75) spans four patches, and the border patch is repeated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Matrix = NDArray[np.float64]


def resample_positions(
    table: NDArray[np.float32], old: int, new: int, *, class_token: bool
) -> NDArray[np.float32]:
    """The table [class_token + old**2, width] for a grid of ``new`` x ``new`` patches.

    The class token's row, the first one, stays as it is.
    """
    head, body = table[: int(class_token)], table[int(class_token) :]
    weights = _shrink(old, new) if new < old else _enlarge(old, new)
    grid = body.reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("yi,xj,ijc->yxc", weights, weights, grid, optimize=True)
    return np.concatenate([head, grid.reshape(new * new, -1)]).astype(np.float32)


def _shrink(old: int, new: int) -> _Matrix:
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distances = np.abs(np.arange(old)[None] + 0.5 - centres) / scale
    weights = _cubic(distances, -0.5)
    result: _Matrix = weights / weights.sum(1, keepdims=True)
    return result


def _enlarge(old: int, new: int) -> _Matrix:
    places = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places).astype(int) - 1
    weights = np.zeros((new, old))
    for step in range(4):
        columns = np.clip(first + step, 0, old - 1)
        values = _cubic(np.abs(places - first - step), -0.75)
        np.add.at(weights, (np.arange(new), columns), values)
    return weights


def _cubic(x: _Matrix, a: float) -> _Matrix:
    """Keys' convolution kernel of distances (Keys, 1981)."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
