"""Bytes of a file to the upright RGB picture that a person sees, by Pillow alone."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import AvifImagePlugin, ExifTags, Image, UnidentifiedImageError

from server.errors import ImageError
from server.images.colour import to_rgb
from server.images.formats import FORMATS, declared_sizes, why_unknown
from server.images.options import ImageLimits, check_bytes, check_frames, check_size
from server.images.resize import Box

# A decoder process has one thread: the cores are the engine's.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# All plug-ins now rather than during the first request; what Pillow has to say about a
# client's bytes is said to the client and not in the log.
Image.init()
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# EXIF 2.32, tag 0x0112: what turns the stored picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's decoders in Python do about two megapixels a second and hold the GIL.
_SLOW_PIXELS: Final = 4_000_000


@dataclass(slots=True, frozen=True)
class DecodedImage:
    """An upright RGB picture. ``source_width`` and ``source_height`` are the file's size in
    pixels as the person sees it, ``format`` is Pillow's name of the format found in the bytes.

    ``rgb`` is smaller by ``shrink`` (1, 2, 4 or 8) if a JPEG was decoded at a fraction. Then the
    pixels at two edges may be partly outside; ``box`` (left, top, right, bottom, in pixels of
    ``rgb``) is what the file's pixels truly cover.
    """

    rgb: Image.Image
    source_width: int
    source_height: int
    format: str
    shrink: int
    box: Box


def decode(
    data: bytes,
    limits: ImageLimits,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    target: int | None = None,
    param: str | None = None,
) -> DecodedImage:
    """Decode a file: orientation and ICC profile applied, transparency put on ``background``.

    Of an animation the first frame. ``target`` is the longest edge in pixels that is wanted in
    the end: a JPEG of at least four times that is decoded at 1/2, 1/4 or 1/8 and stays at least
    twice as large. Limits are checked from the header, before any pixel is decoded.

    Raises ImageError with ``param`` for anything that is not a whole, permitted picture.
    """
    check_bytes(len(data), limits, param)
    for width, height in declared_sizes(data):
        check_size(width, height, limits, param)
    _quiet_pillow()
    with _refusing(data, limits, param), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(image.width, image.height, limits, param)
        check_frames(image, limits, param)
        name = image.format or ""
        raw_mode = _check_codec(image, param)
        shrink, box = _draft(image, target if name in ("JPEG", "MPO") else None)
        image.load()
        orientation = 1 if name == "TIFF" else _orientation(image)  # TIFFs are turned by load().
        rgb = to_rgb(image, background, raw_mode)
        if orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[orientation])
        # A GIF's frame or an icon may be larger than its header said.
        check_size(rgb.width, rgb.height, limits, param)
    box = (0, 0, *rgb.size) if shrink == 1 else _turned(box, rgb.size, orientation)
    width, height = (round((box[i + 2] - box[i]) * shrink) for i in (0, 1))
    return DecodedImage(rgb, width, height, name, shrink, box)


def _draft(image: Image.Image, target: int | None) -> tuple[int, Box]:
    """Have libjpeg shrink while it decodes; return by how much, and the box before turning.

    Against the whole decode the square of 112 to 336 px differs by at most 2 of 255 levels, 0.2
    in the mean (4000x3000, photo-like); decoding takes 11 to 18 ms instead of 31.
    """
    width, height = image.size
    shrink = next((s for s in (8, 4, 2) if target and max(image.size) >= 2 * s * target), 1)
    if shrink > 1:
        image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
        # A side shorter than the factor makes Pillow choose a smaller one.
        shrink = next(s for s in (8, 4, 2, 1) if image.size == (-(-width // s), -(-height // s)))
    return shrink, (0, 0, width / shrink, height / shrink)


def _turned(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where ``box`` of the stored picture lies in the upright one of ``size`` pixels."""
    left, top, right, bottom = box
    width, height = size[::-1] if orientation >= 5 else size
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)


def _check_codec(image: Image.Image, param: str | None) -> str:
    """Return the layout of the pixels in the file; refuse large pictures of slow decoders."""
    tiles = getattr(image, "tile", ())
    if any(tile[0] in Image.DECODERS for tile in tiles):
        check_size(image.width, image.height, ImageLimits(max_pixels=_SLOW_PIXELS), param)
    args = tiles[0][3] if tiles else None
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    return raw_mode if isinstance(raw_mode, str) else ""


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # A damaged EXIF block trips any parser; the picture itself is good.
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _quiet_pillow() -> None:
    """Keep Pillow's remarks on odd but readable files out of the log.

    One filter for all, for ``warnings.catch_warnings`` is not safe in threads; looked up each
    time, because code that resets the filters (a test) would bring the remarks back.
    """
    if not any(entry[0] == "ignore" and _is_pillow(entry[3]) for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _is_pillow(module: object) -> bool:
    return getattr(module, "pattern", None) == r"PIL\."


@contextmanager
def _refusing(data: bytes, limits: ImageLimits, param: str | None) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError that names the field and not the bytes."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        what = f"The picture is far larger than the limit of {limits.max_pixels:,} pixels."
        raise ImageError(what, param=param, code="image_too_large") from error
    except UnidentifiedImageError as error:
        raise ImageError(why_unknown(data), param=param, code="unsupported_image_format") from error
    except Exception as error:
        # Pillow's plug-ins raise what their parsers trip over: OSError, SyntaxError, ValueError,
        # struct.error, EOFError, zlib.error, OverflowError, KeyError, ...
        what = "The picture is damaged or incomplete and cannot be decoded."
        raise ImageError(what, param=param) from error
