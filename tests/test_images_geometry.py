"""Sizes, grids and tokens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.images.geometry import (
    RESNET,
    Conv,
    Grid,
    conv_output,
    conv_parameters,
    feature_map,
    fewer,
    nearest_sizes,
    patch_grid,
    projector_parameters,
    receptive_field,
    vit_parameters,
    within,
)
from server.mmproj.layout import TowerShape, tensor_shapes


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


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_a_convolution_counted_by_hand(size: int, kernel: int, stride: int, padding: int) -> None:
    starts = range(0, size + 2 * padding - kernel + 1, stride)
    assert conv_output(size, kernel, stride, padding) == len(starts)


def test_a_resnet_has_stride_32() -> None:
    # By hand: 224 -> 112 -> 56 -> 28 -> 14 -> 7.
    assert feature_map(224, 224) == Grid(7, 7)
    assert feature_map(224, 224).tokens == 49
    assert feature_map(448, 448).tokens == 196
    assert feature_map(640, 480) == Grid(20, 15)
    # A partial stride still has a place of its own: 225 -> 113 -> 57 -> 29 -> 15 -> 8.
    assert feature_map(225, 224) == Grid(8, 7)


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ([], 1),
        ([Conv(14, 14)], 14),
        ([Conv(3), Conv(3)], 5),
        ([Conv(3, 2), Conv(3)], 7),
        # 7, then (3 - 1) times strides of 2, 4, 8 and 16 more.
        (RESNET, 7 + 2 * (2 + 4 + 8 + 16)),
    ],
)
def test_receptive_fields_by_hand(layers: list[Conv], field: int) -> None:
    assert receptive_field(layers) == field


@settings(max_examples=50)
@given(st.lists(st.builds(Conv, st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_a_receptive_field_is_what_leaves_one_place(layers: list[Conv]) -> None:
    """Without padding, that many pixels give one place, and one fewer gives none."""
    field = receptive_field(layers)
    assert feature_map(field, field, layers) == Grid(1, 1)
    assert feature_map(field - 1, field, layers).tokens == 0


def test_parameters_by_hand() -> None:
    assert conv_parameters(7, 3, 64, bias=False) == 9_408  # ResNet's first convolution
    assert conv_parameters(3, 64, 64) == 36_928
    assert projector_parameters(1024, 4096) == 4_198_400 + 16_781_312
    # OpenAI's CLIPVisionModel, as transformers counts it.
    assert vit_parameters(336, 14, 1024, 24, 4096) == 303_507_456
    assert vit_parameters(224, 16, 768, 12, 3072) == 85_799_424


@pytest.mark.parametrize("image_size", [56, 336])
def test_parameters_are_those_of_the_files(image_size: int) -> None:
    shape = TowerShape(image_size, 14, 32, 2, 64, 3, 48, 48)
    stored = sum(math.prod(size) for size in tensor_shapes(shape).values())
    after = 2 * 32  # the norm after the tower, which LLaVA's files leave out
    tower = vit_parameters(image_size, 14, 32, 3, 64) - after
    assert stored == tower + projector_parameters(32, 48)


@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [
        ((4000, 3000), 1000, (1000, 750)),
        ((3000, 4000), 336, (252, 336)),
        ((100, 50), 336, (100, 50)),
        ((9000, 10), 336, (336, 1)),
    ],
)
def test_within_an_edge(size: tuple[int, int], edge: int, expected: tuple[int, int]) -> None:
    assert within(*size, edge) == expected
    assert max(within(*size, edge, enlarge=True)) == edge


@pytest.mark.parametrize("wrong", [(-1, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)])
def test_nonsense_is_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no convolution"):
        conv_output(*wrong)
    with pytest.raises(ValueError, match="no patches"):
        nearest_sizes(100, 0)


@given(st.integers(1, 2000), st.integers(1, 64))
def test_nearest_sizes_enclose_the_size(size: int, patch: int) -> None:
    below, above = nearest_sizes(size, patch)
    assert below % patch == above % patch == 0
    assert patch <= below <= above <= below + patch
    assert size <= above
    assert below <= max(size, patch)
    assert (below == above) == (size % patch == 0 or size < patch)


@given(st.integers(1, 32_768), st.integers(1, 32_768), st.integers(40_000, 10_000_000))
def test_fewer_pixels_of_nearly_the_same_shape(width: int, height: int, most: int) -> None:
    new = fewer(width, height, most)
    assert new[0] * new[1] <= most
    if width * height <= most:
        assert new == (width, height)
    elif max(width, height) <= 20 * min(width, height):
        assert new[0] * new[1] > most / 2
        assert new[0] / new[1] == pytest.approx(width / height, rel=0.01)
    assert fewer(height, width, most) == new[::-1]
