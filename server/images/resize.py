"""Sizes that the vision tower takes, made as the model's reference makes them."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.images.geometry import fewer, mean_colour

_BICUBIC: Final = Image.Resampling.BICUBIC
_BAND: Final = 256
# Pillow's bicubic filter reaches two pixels of the result to each side, and its weights are whole
# numbers of 22 bits (``PRECISION_BITS`` in its src/libImaging/Resample.c).
_REACH: Final = 2.0
_UNIT: Final = 1 << 22
# Columns of a narrow picture's result that are made together.
_TOGETHER: Final = 8
# Left, top, right and bottom in pixels, whole or not.
Box = tuple[float, float, float, float]


def to_square(
    image: Image.Image,
    size: int,
    mean: tuple[float, float, float],
    *,
    shrink: int = 1,
    box: Box | None = None,
) -> Image.Image:
    """Pad an RGB picture to a square with the mean colour and resize it to ``size`` pixels.

    Source: LLaVA-1.5, ``expand2square`` in ``llava/mm_utils.py`` (picture centred, odd pixel
    below or right), then CLIPImageProcessor's bicubic resize, which Pillow antialiases.

    The result is the reference's bit for bit, without its square canvas, which for 32,768 x 1
    pixels would take 4 GiB: Pillow resizes rows first and columns after, and a row of one colour
    stays as it is, so only the picture's own rows are resized, a band at a time. Rows that would
    be mostly padding are not padded: 1 x 32,768 pixels would take a minute.

    Of a picture decoded at 1/``shrink``, ``box`` is what the original covers; it lands where the
    original would, to a fraction of a pixel (half a drafted pixel off costs up to 23 levels).
    """
    x0, y0, x1, y1 = box or (0, 0, *image.size)
    width, height = round((x1 - x0) * shrink), round((y1 - y0) * shrink)
    if width == height:
        return image.resize((size, size), _BICUBIC, box=(x0, y0, x1, y1))
    side = max(width, height)
    # Where the square begins and its side, in pixels of the image.
    left, top = x0 - (side - width) // 2 / shrink, y0 - (side - height) // 2 / shrink
    span = side / shrink
    colour = mean_colour(mean)
    inside = (0, y0, image.width, y1) if width == side else (x0, 0, x1, image.height)
    image = _faded(image, inside, colour)
    above = max(0, math.ceil(-top))
    narrow = Image.new("RGB", (size, math.ceil(above + top + span)), colour)
    squeeze = _squeezed if 2 * image.width > span else _squeezed_narrow
    for y in range(0, image.height, _BAND):
        rows = image.crop((0, y, image.width, min(y + _BAND, image.height)))
        narrow.paste(squeeze(rows, size, left, span, colour), (0, above + y))
    return narrow.resize((size, size), _BICUBIC, box=(0, above + top, size, above + top + span))


def _faded(image: Image.Image, box: Box, colour: tuple[int, int, int]) -> Image.Image:
    """Mix ``colour`` into edge pixels that lie partly outside ``box``, as far as they do."""
    width, height = image.size
    x0, y0, x1, y1 = box
    for edge, outside in (
        ((0, 0, 1, height), x0),
        ((0, 0, width, 1), y0),
        ((width - 1, 0, width, height), width - x1),
        ((0, height - 1, width, height), height - y1),
    ):
        if outside > 0:
            strip = image.crop(edge)
            image = image.copy()
            image.paste(Image.blend(strip, Image.new("RGB", strip.size, colour), outside), edge)
    return image


def _squeezed(
    rows: Image.Image, size: int, left: float, span: float, colour: tuple[int, int, int]
) -> Image.Image:
    """Resize the ``span`` pixels from ``left`` on to ``size``, padded where there are none."""
    before = max(0, math.ceil(-left))
    width = math.ceil(before + left + span)
    if width > rows.width:
        padded = Image.new("RGB", (width, rows.height), colour)
        padded.paste(rows, (before, 0))
        rows = padded
    box = (before + left, 0, before + left + span, rows.height)
    return rows.resize((size, rows.height), _BICUBIC, box=box)


def _squeezed_narrow(
    rows: Image.Image, size: int, left: float, span: float, colour: tuple[int, int, int]
) -> Image.Image:
    """The same without the padding, for a picture that is narrow beside ``span``.

    Only the columns of the result that the picture reaches are computed, from its own pixels and
    from what the weights of the padding come to; the others have the padding's colour. The sums are
    of whole numbers below 2 ** 53, so floating point holds them exactly.
    """
    scale = span / size
    reach = _REACH * max(scale, 1.0) + 1
    first = max(0, math.floor((-left - reach) / scale) - 1)
    end = min(size, math.ceil((rows.width - left + reach) / scale) + 1)
    pixels = np.asarray(rows, np.float64).transpose(2, 0, 1)
    result = np.empty((rows.height, size, 3), np.uint8)
    result[:] = colour
    for start in range(first, end, _TOGETHER):
        stop = min(start + _TOGETHER, end)
        low, weights = _weights(range(start, stop), size, left, span)
        inside = slice(max(0, -low), max(0, rows.width - low))
        part = pixels[:, :, max(0, low) : max(0, low + weights.shape[1])]
        padding = weights.sum(axis=1) - weights[:, inside].sum(axis=1)
        for channel, level in enumerate(colour):
            sums = part[channel] @ weights[:, inside].T + (padding * level + _UNIT // 2)
            result[:, start:stop, channel] = np.clip(sums // _UNIT, 0, 255)
    return Image.fromarray(result)


def _weights(
    columns: range, size: int, left: float, span: float
) -> tuple[int, NDArray[np.float64]]:
    """Pillow's weights for some columns of a result of ``size``: of which pixel the first one is,
    counted from the picture's, and for each column those of the pixels from there on.

    Source: ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` in Pillow's Resample.c, in the same
    order of operations. As there, pixels are counted from where the padded picture begins.
    """
    before = max(0, math.ceil(-left))
    scale = span / size
    stretch = max(scale, 1.0)
    support = _REACH * stretch
    centers = [before + left + (column + 0.5) * scale for column in columns]
    width = math.ceil(before + left + span)
    lows = [max(0, int(center - support + 0.5)) for center in centers]
    highs = [min(width, int(center + support + 0.5)) for center in centers]
    weights = np.zeros((len(columns), highs[-1] - lows[0]))
    for row, center, low, high in zip(weights, centers, lows, highs, strict=True):
        x = np.abs((np.arange(low, high) - center + 0.5) * (1.0 / stretch))
        inner = (1.5 * x - 2.5) * x * x + 1.0
        outer = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
        taps = np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))
        taps /= np.cumsum(taps)[-1]  # added up one by one, as there
        row[low - lows[0] : high - lows[0]] = np.trunc(taps * _UNIT + np.copysign(0.5, taps))
    return lows[0] - before, weights


def to_canvas(
    image: Image.Image, inner: tuple[int, int], canvas: tuple[int, int], *, box: Box | None = None
) -> Image.Image:
    """Resize a picture, or its part ``box``, to ``inner`` pixels in the middle of black ``canvas``.

    Source: LLaVA-NeXT, ``resize_and_pad_image`` in ``llava/mm_utils.py`` (odd pixel below or
    right); Pillow's ``resize``, which is bicubic there too.
    """
    resized = image.resize(inner, _BICUBIC, box=box)
    if inner == canvas:
        return resized
    padded = Image.new("RGB", canvas)
    padded.paste(resized, ((canvas[0] - inner[0]) // 2, (canvas[1] - inner[1]) // 2))
    return padded


def cut(image: Image.Image, square: int) -> tuple[Image.Image, ...]:
    """The squares of ``square`` pixels that a picture consists of, row by row."""
    return tuple(
        image.crop((x, y, x + square, y + square))
        for y in range(0, image.height, square)
        for x in range(0, image.width, square)
    )


def cap_edge(image: Image.Image, max_edge: int, *, box: Box | None = None) -> Image.Image:
    """Shrink a picture, or its part ``box``, to at most ``max_edge`` pixels at the longest edge.

    The aspect ratio is kept to the pixel, with at least one; nothing is ever enlarged.
    """
    box = box or (0, 0, *image.size)
    longest = max(box[2] - box[0], box[3] - box[1])
    return image if longest <= max_edge else _scaled(image, max_edge / longest, box)


def cap_pixels(image: Image.Image, max_pixels: int) -> Image.Image:
    """Shrink a picture to at most ``max_pixels``, its aspect ratio kept as ``fewer`` does."""
    size = fewer(*image.size, max_pixels)
    return image if size == image.size else image.resize(size, _BICUBIC, reducing_gap=3.0)


def at_least(image: Image.Image, min_edge: int) -> Image.Image:
    """Enlarge a picture so that its shortest edge has at least ``min_edge`` pixels."""
    shortest = min(image.size)
    return image if shortest >= min_edge else _scaled(image, min_edge / shortest)


def _scaled(image: Image.Image, factor: float, box: Box | None = None) -> Image.Image:
    box = box or (0, 0, *image.size)
    size = (max(1, round((box[2] - box[0]) * factor)), max(1, round((box[3] - box[1]) * factor)))
    # reducing_gap averages whole pixels first down to three times the size: much faster, with a
    # result that cannot be distinguished from the exact one.
    return image.resize(size, _BICUBIC, box=box, reducing_gap=3.0)
