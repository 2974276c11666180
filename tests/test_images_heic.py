"""HEIC through the optional plug-in, and the limit of frames."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from image_files import corners, encode, pixels
from PIL import Image

from server.errors import ImageError
from server.images.decode import decode
from server.images.options import ImageLimits

# Says what the server says of a HEIC where the plug-in is not installed.
WITHOUT = """
import sys
sys.modules["pillow_heif"] = None
from server.errors import ImageError
from server.images.decode import decode
from server.images.options import ImageLimits
try:
    decode(sys.stdin.buffer.read(), ImageLimits())
except ImageError as error:
    print(error.code, error.message)
"""


def heic(image: Image.Image, orientation: int = 1) -> bytes:
    """The picture as an iPhone writes it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "HEIF", quality=95, exif=exif.tobytes())


def test_a_heic_is_decoded() -> None:
    decoded = decode(heic(corners()), ImageLimits())
    assert (decoded.format, decoded.source_width, decoded.source_height) == ("HEIF", 64, 48)
    assert np.abs(pixels(decoded.rgb) - pixels(corners())).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_upright_once(orientation: int) -> None:
    # As a camera that was turned stores it: the upright picture, turned back.
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners()
    if orientation in turned:
        stored = stored.transpose(turned[orientation])
    decoded = decode(heic(stored, orientation), ImageLimits())
    assert decoded.rgb.size == (64, 48)
    assert np.abs(pixels(decoded.rgb) - pixels(corners())).mean() < 6


def test_a_damaged_heic_is_refused() -> None:
    data = heic(corners(200, 150))
    for cut in (40, len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError):
            decode(data[:cut], ImageLimits())


def test_a_heic_beyond_the_limits_is_refused() -> None:
    with pytest.raises(ImageError, match="64x48"):
        decode(heic(corners()), ImageLimits(max_pixels=1000))


def test_without_the_plug_in_the_refusal_names_it() -> None:
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT], input=heic(corners()), capture_output=True, check=True
    ).stdout.decode()
    assert said.startswith("unsupported_image_format")
    assert "pillow-heif" in said


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_frames_of_an_animation_may_be_limited(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (index * 60, 0, 0)) for index in range(3)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(data, ImageLimits(max_frames=3)).rgb.size == (8, 8)
    assert decode(data, ImageLimits()).rgb.size == (8, 8)
    with pytest.raises(ImageError, match="3 frames") as raised:
        decode(data, ImageLimits(max_frames=2))
    assert raised.value.code == "image_too_large"
