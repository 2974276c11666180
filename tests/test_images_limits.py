"""Bytes, pixels and sides are checked before anything is spent on them."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import corners, encode, png, smooth
from PIL import Image

from server.errors import ConfigError, ImageError
from server.images.decode import decode
from server.images.options import MAX_PIXELS_CEILING, ImageLimits

LIMITS = ImageLimits()
PARAM = "messages[0].content[1].image_url.url"


def refused(data: bytes, limits: ImageLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as raised:
        decode(data, limits, param=PARAM)
    assert raised.value.status == 400
    assert raised.value.param == PARAM
    return raised.value


def test_nothing_and_too_much() -> None:
    assert "empty" in refused(b"").message
    assert refused(encode(corners(), "BMP"), ImageLimits(max_bytes=999)).code == "image_too_large"


def test_sizes_are_checked_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(corners(300, 200), "PNG")
    decode(data, ImageLimits(max_pixels=60_000, max_side=300))

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.core, "new", forbidden)
    error = refused(data, ImageLimits(max_pixels=59_999))
    assert error.code == "image_too_large"
    assert "300x200" in error.message
    assert "299" in refused(data, ImageLimits(max_side=299)).message


@pytest.mark.parametrize(
    "head",
    [
        b"VP8X\x0a\0\0\0\x10\0\0\0" + b"\x7f\x3e\x00" * 2,
        b"VP8L\xff\0\0\0\x2f" + struct.pack("<I", 15999 | 15999 << 14) + b"\0" * 9,
        b"VP8 \xff\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16000, 16000),
    ],
)
def test_a_webp_canvas_is_not_even_allocated(head: bytes) -> None:
    error = refused(b"RIFF\xff\0\0\0WEBP" + head + b"\0" * 200)
    assert "16000x16000" in error.message


def test_sizes_of_real_webp_headers_are_read_right() -> None:
    for options in (
        {"lossless": True},
        {"lossless": False},
        {"exif": b"Exif\0\0MM\0\x2a\0\0\0\x08\0\0"},
    ):
        data = encode(smooth(301, 203), "WEBP", **options)
        assert "301x203" in refused(data, ImageLimits(max_side=300)).message
        assert decode(data, ImageLimits(max_side=301)).rgb.size == (301, 203)


def icon(entry: bytes) -> bytes:
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(entry), 22) + entry


def test_pictures_inside_icons_are_checked_before_they_are_decoded() -> None:
    bomb = png(9000, 9000, 1, 0, bytes(100))
    assert "9000x9000" in refused(icon(bomb)).message
    bitmap = struct.pack("<IiiHHIIiiII", 40, 9000, 18000, 1, 32, 0, 0, 0, 0, 0, 0)
    assert "9000x9000" in refused(icon(bitmap)).message
    data = encode(corners(40, 40), "ICO", bitmap_format="bmp", sizes=[(40, 40)])
    assert "40x40" in refused(data, ImageLimits(max_side=39)).message
    assert decode(data, ImageLimits(max_side=40)).rgb.size == (40, 40)


BOMB = """
import resource
from image_files import png
from server.errors import ImageError
from server.images.decode import decode
from server.images.options import ImageLimits

data = png(20000, 20000, 1, 0, bytes(2501 * 20000))
decode(png(8, 8, 8, 0, bytes(72)), ImageLimits())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for limits in (ImageLimits(), ImageLimits(max_pixels=170_000_000)):
    try:
        decode(data, limits)
    except ImageError as error:
        print(error.code)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_bomb_leaves_memory_flat() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", BOMB],
        env={"PYTHONPATH": f"{here}:{here.parent}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, second, grown = done.stdout.split()
    assert first == second == "image_too_large"
    assert int(grown) < 20  # MiB; decoded it has 400


def test_limits_that_make_no_sense_are_refused() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS_CEILING
    for wrong in ({"max_pixels": MAX_PIXELS_CEILING + 1}, {"max_bytes": 0}, {"max_images": -1}):
        with pytest.raises(ConfigError):
            ImageLimits(**wrong)
