"""Rows of squares to the rows of a picture, against LLaVA-NeXT's definition."""

from __future__ import annotations

import llava_next
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from server.engine.vision.mtmd_tower import assemble, count, pool
from server.images.geometry import tile
from server.messages import ImageInput, TileLayout

PINPOINTS = ((56, 112), (112, 56), (112, 112), (168, 56), (56, 168))
SIDE, N_EMBD = 4, 3
NEWLINE = np.float32([-1, -2, -3])


def rows(n_squares: int) -> list[np.ndarray]:
    """Squares whose every number is another one."""
    numbers = np.arange(n_squares * SIDE * SIDE * N_EMBD, dtype=np.float32)
    return list(numbers.reshape(n_squares, SIDE * SIDE, N_EMBD))


def image(layout: TileLayout | None, pool: int = 1) -> ImageInput:
    return ImageInput("0", 56, 56, b"", 1, 1, layout=layout, pool=pool)


@settings(max_examples=300)
@given(st.integers(1, 2000), st.integers(1, 2000))
def test_assembled_as_the_reference_does(width: int, height: int) -> None:
    assume(max(width, height) < 8 * min(width, height))
    tiling = tile(width, height, PINPOINTS, 56, SIDE)
    assume(tiling is not None)  # of 9 x 2 pixels, say, nothing of the grid would be left
    assert tiling is not None
    picture = image(tiling.layout)
    squares = rows(picture.n_squares)
    ours = assemble(squares, picture, NEWLINE)
    theirs = llava_next.merged(squares, (width, height), tiling.canvas, 56, NEWLINE)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.float32
    span = count(picture, SIDE, newlines=True)
    assert span.n_tokens == len(ours) == tiling.layout.n_tokens(SIDE, newlines=True)
    assert span.n_tokens == SIDE**2 + span.grid_height * (span.grid_width + 1)
    flat = assemble(squares, picture, None)
    np.testing.assert_array_equal(flat, np.concatenate(squares))
    assert count(picture, SIDE, newlines=False).n_tokens == len(flat)


def test_order_by_hand() -> None:
    """Two tiles of 2 x 2 beside each other, their last row unpadded."""
    layout = TileLayout(columns=2, rows=1, left=0, top=0, width=4, height=1)
    squares = [np.float32([[9], [9], [9], [9]]), np.float32([[1], [2], [5], [6]])]
    squares.append(np.float32([[3], [4], [7], [8]]))
    merged = assemble(squares, image(layout), np.float32([0]))
    assert merged[:, 0].tolist() == [9, 9, 9, 9, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pooled_rows_are_means(side: int, factor: int) -> None:
    grid = np.random.default_rng(0).standard_normal((side, side, N_EMBD)).astype(np.float32)
    pooled = pool(grid.reshape(-1, N_EMBD), factor)
    starts = range(0, side, factor)
    expected = [
        grid[y : y + factor, x : x + factor].reshape(-1, N_EMBD).mean(0)
        for y in starts
        for x in starts
    ]
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    assert pooled.dtype == np.float32
    assert count(image(None, factor), side, newlines=True).n_tokens == len(pooled)


def test_what_does_not_fit_is_refused() -> None:
    layout = TileLayout(2, 1, 0, 0, 8, 4)
    with pytest.raises(ValueError, match="2 squares encoded, 3 needed"):
        assemble(rows(2), image(layout), NEWLINE)
    with pytest.raises(ValueError, match="no square"):
        assemble([np.zeros((5, 3), np.float32)], image(None, 2), None)
