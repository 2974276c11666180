"""LLaVA-1.6's any-resolution tiling: which shape a picture is cut to, and what is left of it.

Source: LLaVA-NeXT (https://github.com/LLaVA-VL/LLaVA-NeXT), ``select_best_resolution`` and
``resize_and_pad_image`` in ``llava/mm_utils.py``, ``unpad_image`` in ``llava/model/llava_arch.py``.
Divisions are made in floating point and in the reference's order: sizes at which a rounding error
decides come out as they did in training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from server.messages import TileLayout

# Width and height.
Size = tuple[int, int]


@dataclass(slots=True, frozen=True)
class Tiling:
    """A picture's way into tiles: resized to ``inner`` pixels, padded to ``canvas``, then cut."""

    canvas: Size
    inner: Size
    layout: TileLayout


def best_pinpoint(width: int, height: int, pinpoints: Iterable[Size]) -> Size | None:
    """The shape that keeps most of the picture's pixels, and among those wastes least.

    None where the picture is so narrow that it would vanish in each of them.
    """
    best, most, least = None, 0, math.inf
    for across, down in pinpoints:
        scale = min(across / width, down / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = across * down - kept
        if kept > most or (kept == most and kept > 0 and wasted < least):
            best, most, least = (across, down), kept, wasted
    return best


def inner_size(width: int, height: int, canvas: Size) -> Size:
    """The picture's size in pixels within ``canvas``, aspect ratio kept, rounded up."""
    across, down = canvas[0] / width, canvas[1] / height
    if across < down:
        return canvas[0], min(math.ceil(height * across), canvas[1])
    return min(math.ceil(width * down), canvas[0]), canvas[1]


def unpadded(width: int, height: int, grid: Size) -> tuple[int, int, int, int]:
    """Left, top, width and height of what a picture covers of the tokens' ``grid``.

    The padding is taken off both sides alike; of an odd number of rows one is left.
    """
    columns, rows = grid
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        return 0, padding, columns, rows - 2 * padding
    padding = (columns - int(width * (rows / height))) // 2
    return padding, 0, columns - 2 * padding, rows


def tile(
    width: int, height: int, pinpoints: Iterable[Size], square: int, side: int
) -> Tiling | None:
    """How a picture is cut into squares of ``square`` pixels, ``side`` times ``side`` tokens each.

    ``pinpoints`` are multiples of ``square``. None for a picture so narrow that nothing of the
    grid would be left after unpadding: then the overview shows more of it than tiles could.
    """
    canvas = best_pinpoint(width, height, pinpoints)
    if canvas is None:
        return None
    columns, rows = canvas[0] // square, canvas[1] // square
    left, top, across, down = unpadded(width, height, (columns * side, rows * side))
    if not across or not down:
        return None
    layout = TileLayout(columns, rows, left, top, across, down)
    return Tiling(canvas, inner_size(width, height, canvas), layout)
