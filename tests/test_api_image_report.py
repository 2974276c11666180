"""What the log and the reply say of a picture."""

from __future__ import annotations

from dataclasses import replace

from server.api.http.record import ImageReport, pictures_of
from server.messages import EncodedImage, ImageInput, TileLayout

SQUARE = ImageInput("0", 336, 336, b"pixels", 3000, 4000, resized_width=252, resized_height=336)
TILED = replace(SQUARE, tiles=(b"a", b"b"), layout=TileLayout(1, 2, 0, 0, 24, 48))


def encoded(tokens: int, grid: tuple[int, int], *, cached: bool = False) -> EncodedImage:
    seconds = 0.0 if cached else 0.2121
    return EncodedImage(tokens, *grid, 336, 336, 3000, 4000, seconds, cached)


def test_a_line_for_each_kind() -> None:
    assert ImageReport(SQUARE, encoded(576, (24, 24))).line == (
        "encoded image to 576 tokens (3000x4000 -> 336x336, 24x24 grid, 1 tile) in 212 ms"
    )
    assert ImageReport(TILED, encoded(1776, (24, 48))).line == (
        "encoded image to 1776 tokens (3000x4000 -> 336x672, 24x48 grid, 3 tiles) in 212 ms"
    )
    assert ImageReport(SQUARE, encoded(576, (24, 24), cached=True)).line.endswith(
        "1 tile) before; taken from the cache"
    )


def test_the_reply_says_all_of_it() -> None:
    image = replace(TILED, detail="high", decode_seconds=0.0123456)
    assert ImageReport(image, encoded(1776, (24, 48))).json == {
        "source": {"width": 3000, "height": 4000},
        "resized": {"width": 252, "height": 336},
        "encoded": {"width": 336, "height": 672},
        "tiles": 3,
        "grid": {"width": 24, "height": 48},
        "tokens": 1776,
        "detail": "high",
        "cached": False,
        "decode_ms": 12.346,
        "encode_ms": 212.1,
    }


def test_pixels_are_not_kept() -> None:
    (kept,) = pictures_of(["a", TILED, "b"])
    assert (kept.rgb, kept.tiles, kept.n_squares) == (b"", (), 3)
    assert kept == replace(TILED, rgb=b"", tiles=())
