"""What a picture is and what it would become, without encoding it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from PIL import ExifTags, Image

from server.images.formats import FORMATS
from server.images.geometry import nearest_sizes, patch_grid, tile, within
from server.images.prepare import ImageOptions, prepare
from server.messages import ImageInput, VisionFacts

_SCALES: Final = tuple(Fraction(a, b) for a, b in ((1, 2), (2, 3), (1, 1), (4, 3), (2, 1)))


@dataclass(slots=True, frozen=True)
class Inspection:
    """A picture's file: its format in Pillow's words, its size in pixels as stored (not yet
    turned upright), and what the engine would be handed.
    """

    format: str
    stored_width: int
    stored_height: int
    n_bytes: int
    image: ImageInput


@dataclass(slots=True, frozen=True)
class Resolution:
    """A picture at an ``--image-size``, in pixels: the squares that are encoded, and its tokens."""

    image_size: int
    squares: int
    tokens: int


def inspect(
    data: bytes, tower: VisionFacts, options: ImageOptions, param: str | None
) -> Inspection:
    """Decode the whole file, as a request would. Raises ImageError where that would."""
    image = prepare(data, tower, options, param)
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        # Pillow tells the size of a TIFF turned already; its tags have the stored one.
        tags = getattr(header, "tag_v2", {})
        width = int(tags.get(ExifTags.Base.ImageWidth, header.width))
        height = int(tags.get(ExifTags.Base.ImageLength, header.height))
        name = header.format or ""
    return Inspection(name, width, height, len(data), image)


def resolutions(
    tower: VisionFacts, width: int, height: int, max_edge: int | None = None
) -> tuple[Resolution, ...]:
    """What an upright picture costs at half to twice the tower's own size, and at the present one.

    Sizes are multiples of the patch, as ``--image-size`` wants them. Towers that are not fixed
    have none, for there the picture decides; projectors that thin the patches out (MobileVLM)
    are bound to the size that they have.
    """
    if not tower.fixed:
        return ()
    patch, sizes = tower.patch_size, {tower.image_size}
    if tower.tokens_per_image == patch_grid(tower.image_size, tower.image_size, patch).tokens:
        sizes |= {nearest_sizes(round(tower.native_image_size * s), patch)[0] for s in _SCALES}
    if max_edge is not None:
        width, height = within(width, height, max_edge)
    return tuple(_at(tower, size, width, height) for size in sorted(sizes))


def _at(tower: VisionFacts, size: int, width: int, height: int) -> Resolution:
    side = size // tower.patch_size
    if size == tower.image_size:
        side = math.isqrt(tower.tokens_per_image)
    # The same tiles of another size, as server.mmproj makes them.
    pinpoints = [tuple(edge // tower.image_size * size for edge in p) for p in tower.pinpoints]
    tiling = tile(width, height, [(p[0], p[1]) for p in pinpoints], size, side)
    if tiling is None:
        return Resolution(size, 1, side * side)
    squares = 1 + tiling.layout.columns * tiling.layout.rows
    return Resolution(size, squares, tiling.layout.n_tokens(side, newlines=tower.row_newlines))
