"""A file's bytes to what the engine encodes: decoding and resizing joined. Runs in a decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from PIL import Image

from server.errors import ImageError
from server.images.decode import DecodedImage, decode
from server.images.geometry import Size, tile, within
from server.images.options import ImageOptions, image_digest, source_digest
from server.images.resize import at_least, cap_edge, cap_pixels, cut, to_canvas, to_square
from server.messages import ImageInput, TileLayout, VisionFacts

# Qwen2-VL's reference refuses more (smart_resize in its processor); others have no rule of their
# own, and a grid that is 200 times as long as high tells them nothing.
_MAX_ASPECT: Final = 200
# What OpenAI's documentation says of detail "low": a version of 512 pixels.
_LOW_EDGE: Final = 512
# Detail "low" on a tower that sees one square: means of 2 x 2 tokens.
_LOW_POOL: Final = 2


@dataclass(slots=True, frozen=True)
class Fitted:
    """What the tower is to see; ``resized`` is what the picture takes of it, in pixels."""

    image: Image.Image
    resized: Size
    tiles: tuple[Image.Image, ...] = ()
    layout: TileLayout | None = None
    pool: int = 1


def prepare(
    data: bytes, tower: VisionFacts, options: ImageOptions, param: str | None
) -> ImageInput:
    """Decode a file and bring it to the size that ``tower`` is to see.

    Fixed towers get ``image_size`` squared pixels as LLaVA-1.5 makes them, or as LLaVA-1.6 cuts
    them where there are pinpoints; other towers get the upright picture, capped, and with no more
    pixels than they can see, each edge at least one patch, for libmtmd to prepare.

    Raises ImageError with ``param``: not a whole, permitted picture, or too narrow for the tower.
    """
    decoded = decode_for(data, tower, options, param)
    fitted = fit(decoded, tower, options, param)
    return ImageInput(
        digest=image_digest(source_digest(data), tower, options),
        width=fitted.image.width,
        height=fitted.image.height,
        rgb=fitted.image.tobytes(),
        source_width=decoded.source_width,
        source_height=decoded.source_height,
        tiles=tuple(each.tobytes() for each in fitted.tiles),
        layout=fitted.layout,
        pool=fitted.pool,
        detail="low" if options.low else "high",
        resized_width=fitted.resized[0],
        resized_height=fitted.resized[1],
    )


def decode_for(
    data: bytes, tower: VisionFacts, options: ImageOptions, param: str | None
) -> DecodedImage:
    """The first half of ``prepare``: the picture, as large as the second half needs it."""
    return decode(
        data,
        options.limits,
        background=options.background,
        target=_target(tower, options),
        param=param,
    )


def fit(
    decoded: DecodedImage, tower: VisionFacts, options: ImageOptions, param: str | None
) -> Fitted:
    """The second half of ``prepare``: the decoded picture as the tower is to see it.

    Raises ImageError with ``param`` if it is too narrow for the tower.
    """
    if tower.tiled:
        return _in_tiles(decoded, tower, options)
    if tower.fixed:
        return _in_a_square(decoded, tower, options)
    return _any_size(decoded, tower, options, param)


def _target(tower: VisionFacts, options: ImageOptions) -> int | None:
    """The longest edge in pixels that is wanted in the end, None for the picture's own."""
    if not tower.fixed:
        return _cap(options)
    if options.low:
        return tower.image_size
    longest = max((tower.image_size, *(edge for point in tower.pinpoints for edge in point)))
    return min(longest, options.max_edge or longest) if tower.tiled else longest


def _cap(options: ImageOptions) -> int | None:
    if options.low:
        return min(options.max_edge or _LOW_EDGE, _LOW_EDGE)
    return options.max_edge


def _in_a_square(decoded: DecodedImage, tower: VisionFacts, options: ImageOptions) -> Fitted:
    size = tower.image_size
    image = to_square(decoded.rgb, size, tower.image_mean, shrink=decoded.shrink, box=decoded.box)
    resized = within(decoded.source_width, decoded.source_height, size, enlarge=True)
    return Fitted(image, resized, pool=_LOW_POOL if options.low else 1)


def _in_tiles(decoded: DecodedImage, tower: VisionFacts, options: ImageOptions) -> Fitted:
    """The overview, squeezed to a square as the reference does it, and the tiles."""
    size = tower.image_size
    overview = to_canvas(decoded.rgb, (size, size), (size, size), box=decoded.box)
    width, height = decoded.source_width, decoded.source_height
    if options.max_edge is not None:
        width, height = within(width, height, options.max_edge)
    side = math.isqrt(tower.tokens_per_image)
    tiling = None if options.low else tile(width, height, tower.pinpoints, size, side)
    if tiling is None:
        return Fitted(overview, overview.size)
    canvas = to_canvas(decoded.rgb, tiling.inner, tiling.canvas, box=decoded.box)
    return Fitted(overview, tiling.inner, cut(canvas, size), tiling.layout)


def _any_size(
    decoded: DecodedImage, tower: VisionFacts, options: ImageOptions, param: str | None
) -> Fitted:
    width, height = decoded.source_width, decoded.source_height
    cap = _cap(options) or options.limits.max_side
    if max(width, height) <= _MAX_ASPECT * min(width, height):
        capped = cap_edge(decoded.rgb, cap, box=decoded.box)
        if tower.most_pixels:
            # libmtmd would do it, too, but in the engine, where all of it has to be sent first.
            capped = cap_pixels(capped, tower.most_pixels)
        fitted = at_least(capped, tower.patch_size)
        if max(fitted.size) <= cap:
            return Fitted(fitted, fitted.size)
    raise ImageError(
        f"The picture is too narrow for the vision tower ({width}x{height}).", param=param
    )
