"""Sizes, grids and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.images.geometry import Grid, conv_output, nearest_sizes, patch_grid


@pytest.mark.parametrize(
    ("size", "patch", "tokens"), [(336, 14, 576), (224, 14, 256), (112, 14, 64), (224, 16, 196)]
)
def test_the_towers_that_we_know(size: int, patch: int, tokens: int) -> None:
    grid = patch_grid(size, size, patch)
    assert grid == Grid(size // patch, size // patch)
    assert grid.tokens == tokens


def test_a_grid_need_not_be_square() -> None:
    assert patch_grid(640, 100, 14) == Grid(45, 7)
    assert patch_grid(640, 13, 14).tokens == 0


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_a_convolution_counted_by_hand(size: int, kernel: int, stride: int, padding: int) -> None:
    starts = range(0, size + 2 * padding - kernel + 1, stride)
    assert conv_output(size, kernel, stride, padding) == len(starts)


def test_a_resnet_has_stride_32() -> None:
    side = conv_output(224, kernel=7, stride=2, padding=3)
    for _ in range(4):
        side = conv_output(side, kernel=3, stride=2, padding=1)
    assert side == 7


@pytest.mark.parametrize("wrong", [(-1, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)])
def test_nonsense_is_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no convolution"):
        conv_output(*wrong)
    with pytest.raises(ValueError, match="no patches"):
        nearest_sizes(100, 0)


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 64))
def test_nearest_sizes_enclose_the_size(size: int, patch: int) -> None:
    below, above = nearest_sizes(size, patch)
    assert below % patch == above % patch == 0
    assert patch <= below <= above <= below + patch
    assert size <= above
    assert below <= max(size, patch)
    assert (below == above) == (size % patch == 0 or size < patch)
