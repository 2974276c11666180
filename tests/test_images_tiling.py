"""LLaVA-1.6's tiling against its definition: shapes, pixels, tokens."""

from __future__ import annotations

import io
from dataclasses import replace

import llava_next
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from image_files import corners, encode, pixels, smooth, tower
from PIL import Image

from server.images.geometry import best_pinpoint, inner_size, tile
from server.images.options import ImageOptions
from server.images.prepare import prepare
from server.messages import ImageInput, TileLayout

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SMALL = ((56, 112), (112, 56), (112, 112), (168, 56), (56, 168))
TILED = replace(tower(image_size=56), tokens_per_image=16, pinpoints=SMALL, row_newlines=True)
edges = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("size", "canvas", "tokens"),
    [
        ((672, 672), (672, 672), 576 + 48 * 48 + 48),
        ((336, 336), (336, 672), 576 + 24 * 24 + 24),
        ((4000, 3000), (672, 672), 576 + 36 * 48 + 36),
        ((9000, 1000), (1008, 336), 576 + 8 * 72 + 8),
        ((100, 1000), (336, 1008), 576 + 72 * 8 + 72),
        ((512, 14), (672, 336), 576 + 2 * 48 + 2),
    ],
)
def test_sizes_by_hand(size: tuple[int, int], canvas: tuple[int, int], tokens: int) -> None:
    tiling = tile(*size, PINPOINTS, 336, 24)
    assert tiling is not None
    assert tiling.canvas == canvas
    assert tiling.layout.n_tokens(24, newlines=True) == tokens
    n_tiles = canvas[0] // 336 * canvas[1] // 336
    assert tiling.layout.n_tokens(24, newlines=False) == 576 * (1 + n_tiles)


@settings(max_examples=400)
@given(edges, edges)
def test_as_the_reference_chooses_and_unpads(width: int, height: int) -> None:
    assume(max(width, height) < 70 * min(width, height))
    target = llava_next.best_resolution((width, height), PINPOINTS)
    assert best_pinpoint(width, height, PINPOINTS) == target
    across, down = target[0] // 14, target[1] // 14
    places = np.arange(across * down, dtype=np.float32).reshape(1, down, across)
    left = llava_next.unpad(places, (width, height))[0]
    tiling = tile(width, height, PINPOINTS, 336, 24)
    if tiling is None:  # where the reference encodes tiles and then throws all of them away
        assert left.size == 0
        return
    layout = tiling.layout
    assert (layout.columns * 336, layout.rows * 336) == target
    ours = places[0, layout.top : layout.top + layout.height][
        :, layout.left : layout.left + layout.width
    ]
    np.testing.assert_array_equal(ours, left)
    assert ours.shape == (layout.height, layout.width)


@settings(max_examples=300)
@given(edges, edges)
def test_what_is_unpadded_covers_the_picture(width: int, height: int) -> None:
    """No patch that lies wholly within the picture is taken away with the padding."""
    tiling = tile(width, height, PINPOINTS, 336, 24)
    if tiling is None:  # narrower than one patch of the grid
        assert max(width, height) > 24 * min(width, height)
        return
    layout, canvas, inner = tiling.layout, tiling.canvas, tiling.inner
    assert inner == inner_size(width, height, canvas)
    assert inner[0] == canvas[0] or inner[1] == canvas[1]
    for start, size, whole, pixels_ in (
        (layout.left, layout.width, canvas[0], inner[0]),
        (layout.top, layout.height, canvas[1], inner[1]),
    ):
        first, last = (whole - pixels_) // 2, (whole - pixels_) // 2 + pixels_
        # The reference rounds padding down to whole patches, and the picture to whole pixels.
        assert start * 14 <= first + 14
        assert (start + size) * 14 >= last - 14


def test_narrow_pictures_have_an_overview_alone() -> None:
    for size in ((3000, 1), (1, 3000), (32768, 100)):
        assert tile(*size, PINPOINTS, 336, 24) is None
    image = prepare(encode(Image.new("RGB", (3000, 2)), "PNG"), TILED, ImageOptions(), None)
    assert (image.tiles, image.layout, image.n_squares) == ((), None, 1)


def levels(rgb: bytes, edge: int) -> np.ndarray:
    return np.frombuffer(rgb, np.uint8).reshape(edge, edge, 3)


@pytest.mark.parametrize("size", [(112, 112), (300, 200), (90, 400), (57, 50), (20, 30)])
def test_pixels_are_the_reference_s(size: tuple[int, int]) -> None:
    picture = smooth(*size)
    image = prepare(encode(picture, "PNG"), TILED, ImageOptions(), None)
    expected = llava_next.squares(picture, SMALL, 56)
    assert image.n_squares == len(expected) == 1 + len(image.tiles)
    for ours, theirs in zip((image.rgb, *image.tiles), expected, strict=True):
        np.testing.assert_array_equal(levels(ours, 56), pixels(theirs))
    assert (image.source_width, image.source_height) == size
    assert (image.encoded_width, image.encoded_height) == llava_next.best_resolution(size, SMALL)


def test_no_pixel_is_lost_between_tiles() -> None:
    """A picture as large as its canvas comes back whole from its tiles."""
    picture = corners(112, 112)
    image = prepare(encode(picture, "PNG"), TILED, ImageOptions(), None)
    assert image.layout == TileLayout(2, 2, 0, 0, 8, 8)
    above, below = (
        np.concatenate([levels(tile, 56) for tile in image.tiles[start : start + 2]], axis=1)
        for start in (0, 2)
    )
    np.testing.assert_array_equal(np.concatenate([above, below]), np.asarray(picture))


def test_a_drafted_jpeg_has_the_same_tiles() -> None:
    data = encode(smooth(2000, 1500), "JPEG", quality=95)
    image = prepare(data, TILED, ImageOptions(), None)
    with Image.open(io.BytesIO(data)) as whole:
        expected = llava_next.squares(whole.convert("RGB"), SMALL, 56)
    for ours, theirs in zip((image.rgb, *image.tiles), expected, strict=True):
        assert np.abs(levels(ours, 56).astype(int) - pixels(theirs)).mean() < 1.5


def prepared(size: tuple[int, int], **options: object) -> ImageInput:
    data = encode(Image.new("RGB", size, (9, 9, 9)), "PNG", compress_level=1)
    return prepare(data, TILED, ImageOptions(**options), None)  # type: ignore[arg-type]


def test_low_detail_is_the_overview_alone() -> None:
    low, high = prepared((300, 200), detail="low"), prepared((300, 200))
    assert low.rgb == high.rgb
    assert (low.tiles, low.layout, low.pool, low.detail) == ((), None, 1, "low")
    assert (high.n_squares, high.detail) == (5, "high")
    assert low.digest != high.digest


def test_a_capped_picture_has_fewer_tiles() -> None:
    whole, capped = prepared((1000, 1000)), prepared((1000, 1000), max_edge=56)
    assert (whole.n_squares, capped.n_squares) == (5, 3)
    assert (capped.source_width, capped.source_height) == (1000, 1000)
    assert capped.digest != whole.digest


def test_the_digest_covers_how_it_is_cut() -> None:
    data = encode(corners(), "PNG")
    towers = (
        TILED,
        replace(TILED, pinpoints=SMALL[:2]),
        replace(TILED, row_newlines=False),
        replace(TILED, tokens_per_image=4),
        replace(TILED, pinpoints=()),
    )
    digests = {prepare(data, each, ImageOptions(), None).digest for each in towers}
    assert len(digests) == len(towers)
