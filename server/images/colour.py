"""Any of Pillow's pixel layouts to 8-bit sRGB, as a person would see it."""

from __future__ import annotations

import io
import math
from typing import Final

import numpy as np
from PIL import Image, ImageCms

_SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# What an ICC profile calls the colours of a layout.
_PROFILE_SPACE: Final = {"L": "GRAY", "RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK"}
_DEEP: Final = ("I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Image.Image, background: tuple[int, int, int], raw_mode: str) -> Image.Image:
    """Return a loaded ``image`` as RGB, transparency composited on ``background``.

    ``raw_mode`` is the layout in the file as Pillow names it ("L;4", "RGB;16B"; "" if unknown):
    it tells the true depth. Raises ValueError for values that cannot be shown.
    """
    image = _eight_bit(image, raw_mode)
    image = _plain(image, raw_mode)
    image = _to_srgb(image)
    if image.mode not in ("LA", "RGBA"):
        return image if image.mode == "RGB" else image.convert("RGB")
    canvas = Image.new("RGB", image.size, background)
    mask = image.getchannel("A")
    canvas.paste(image.convert("RGB") if image.mode == "LA" else image, mask=mask)
    return canvas


def _eight_bit(image: Image.Image, raw_mode: str) -> Image.Image:
    """Greys of 16 and 32 bits and floats scaled to 8 bits; Pillow's own convert() clips them."""
    if image.mode in _DEEP:
        values = np.asarray(image)
        # The high byte, as Pillow itself reads 16-bit colour; 12-bit TIFFs count to 4095.
        grey = Image.fromarray((values >> (4 if raw_mode == "I;12" else 8)).astype(np.uint8))
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    elif image.mode in ("I", "F"):
        grey = _stretch(image)
    else:
        return image
    if profile := image.info.get("icc_profile"):
        grey.info["icc_profile"] = profile
    return grey


def _stretch(image: Image.Image) -> Image.Image:
    extrema = image.getextrema()
    low, high = (float(value) for value in extrema if isinstance(value, (int, float)))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("values that are not finite")
    if image.format == "PPM" and image.mode == "I":
        low, high = 0.0, 65535.0
    elif image.mode == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 255.0 if high <= 255 else 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    # Otherwise nothing says what is black and what is white: the darkest and the brightest are.
    scale = 255.0 / ((high - low) or 1.0)
    offset = 0.5 - low * scale

    def linear(value: Image.ImagePointTransform) -> Image.ImagePointTransform:
        return value * scale + offset

    return image.point(linear).convert("L")


def _plain(image: Image.Image, raw_mode: str) -> Image.Image:
    """Return the picture as L, LA, RGB, RGBA or CMYK, of which no information is lost."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        _scale_key(image, raw_mode)
        mode = "LA" if grey else "RGBA"
    else:
        mode = "L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _scale_key(image: Image.Image, raw_mode: str) -> None:
    """Bring a PNG's transparent colour to the 8 bits to which Pillow brought the pixels only."""
    key = image.info.get("transparency")
    if isinstance(key, int) and raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = min(key * (85 if raw_mode == "L;2" else 17), 255)
    elif isinstance(key, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _to_srgb(image: Image.Image) -> Image.Image:
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or image.mode not in _PROFILE_SPACE:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if profile.profile.xcolor_space != _PROFILE_SPACE[image.mode]:
            return image
        # Most pictures say that they are sRGB; converting them costs 13 ms a megapixel for nothing.
        if "sRGB" in (profile.profile.profile_description or ""):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, profile, _SRGB, outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image  # A broken profile spoils the shades, not the picture; browsers do likewise.
    return image if converted is None else converted
