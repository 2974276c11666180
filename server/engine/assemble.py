"""From the rows of one square after another to the rows that the language model was trained on.

Source of the assembly: LLaVA-NeXT, ``prepare_inputs_labels_for_multimodal`` in
``llava/model/llava_arch.py`` with ``mm_patch_merge_type`` ``spatial_unpad``, and ``flat`` for files
without the newline's embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.engine.bindings.chunks import ImageSpan
from server.messages import ImageInput, TileLayout

Rows = NDArray[np.float32]


def count(image: ImageInput, side: int, *, newlines: bool) -> ImageSpan:
    """What ``assemble`` will give for squares of ``side`` times ``side`` rows.

    The grid is that of the tiles where there are some, without padding, overview and newlines.
    """
    layout = image.layout
    if layout is None:
        pooled = -(-side // image.pool)
        return ImageSpan(pooled * pooled, pooled, pooled)
    n_tokens = layout.n_tokens(side, newlines=newlines)
    if newlines:
        return ImageSpan(n_tokens, layout.width, layout.height)
    return ImageSpan(n_tokens, layout.columns * side, layout.rows * side)


def assemble(squares: Sequence[Rows], image: ImageInput, newline: Rows | None) -> Rows:
    """The picture's rows, float32 [n_tokens, n_embd].

    ``squares`` are the overview's rows and those of each tile, [side * side, n_embd] each;
    ``newline`` is the embedding after each row of the grid, [n_embd].

    Raises ValueError where a square's rows are no square, or squares are missing.
    """
    if len(squares) != image.n_squares:
        raise ValueError(f"{len(squares)} squares encoded, {image.n_squares} needed")
    overview, tiles = squares[0], squares[1:]
    if image.layout is None:
        return pool(overview, image.pool)
    if newline is None:
        return np.concatenate(squares)
    grid = unpad(join(tiles, image.layout), image.layout)
    return np.concatenate([overview, end_rows(grid, newline)])


def join(tiles: Sequence[Rows], layout: TileLayout) -> Rows:
    """The tiles' rows as one grid, [rows * side, columns * side, n_embd]."""
    side = _side(tiles[0])
    squares = np.stack(tiles).reshape(layout.rows, layout.columns, side, side, -1)
    grid: Rows = squares.swapaxes(1, 2).reshape(layout.rows * side, layout.columns * side, -1)
    return grid


def unpad(grid: Rows, layout: TileLayout) -> Rows:
    """The part of a grid that the picture covers, [height, width, n_embd]."""
    top, left = layout.top, layout.left
    return grid[top : top + layout.height, left : left + layout.width]


def end_rows(grid: Rows, newline: Rows) -> Rows:
    """A grid [height, width, n_embd] in rows, ``newline`` [n_embd] after each of its lines."""
    height, _, n_embd = grid.shape
    ends = np.broadcast_to(newline, (height, 1, n_embd))
    return np.concatenate([grid, ends], axis=1).reshape(-1, n_embd)


def pool(rows: Rows, factor: int) -> Rows:
    """Means of ``factor`` times ``factor`` neighbours of a square grid, row by row.

    Where ``factor`` does not divide the side, the last ones are means of fewer.
    """
    if factor == 1:
        return rows
    side = _side(rows)
    starts = np.arange(0, side, factor)
    sizes = np.diff(starts, append=side)
    grid = rows.reshape(side, side, -1)
    sums = np.add.reduceat(np.add.reduceat(grid, starts, axis=0), starts, axis=1)
    means = sums / np.multiply.outer(sizes, sizes)[..., None]
    return means.reshape(len(starts) ** 2, -1).astype(np.float32)


def _side(rows: Rows) -> int:
    side = math.isqrt(len(rows))
    if side * side != len(rows):
        raise ValueError(f"{len(rows)} rows are no square")
    return side
