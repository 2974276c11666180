"""Files of every kind: upright, whole, within the limits, or refused by name."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import chunk, corners, encode, pixels, png, smooth
from PIL import ExifTags, Image

from server.errors import ImageError
from server.images import decode as decode_module
from server.images.decode import DecodedImage, decode
from server.images.options import ImageLimits

LIMITS = ImageLimits()
PARAM = "messages[0].content[1].image_url.url"
# How a camera that was held so stores an upright picture: the inverse of what EXIF asks for.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(image: Image.Image, orientation: int, file_format: str) -> bytes:
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    sideways = image if turn is None else image.transpose(turn)
    return encode(sideways, file_format, exif=exif, **options)


def refused(data: bytes, limits: ImageLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as raised:
        decode(data, limits, param=PARAM)
    assert raised.value.status == 400
    assert raised.value.param == PARAM
    return raised.value


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_the_same_upright_picture(orientation: int) -> None:
    image = corners(70, 30)
    for file_format in ("PNG", "TIFF", "WEBP", "JPEG", "AVIF"):
        decoded = decode(stored(image, orientation, file_format), LIMITS)
        assert (decoded.source_width, decoded.source_height) == (70, 30) == decoded.rgb.size
        assert decoded.format == file_format
        difference = np.abs(pixels(decoded.rgb) - pixels(image))
        if file_format in ("JPEG", "AVIF"):  # They blur the edges between the quarters.
            assert np.median(difference) <= 8
            assert (difference.max(axis=2) > 40).mean() < 0.15
        else:
            assert difference.max() == 0


def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    data = encode(corners(), "PNG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\xff")
    assert np.array_equal(pixels(decode(data, LIMITS).rgb), pixels(corners()))


@pytest.mark.parametrize(
    "file_format",
    [
        "PNG",
        "GIF",
        "BMP",
        "TIFF",
        "PPM",
        "ICO",
        "TGA",
        "JPEG2000",
        "QOI",
        "PCX",
        "JPEG",
        "WEBP",
        "AVIF",
    ],
)
def test_formats(file_format: str) -> None:
    image = corners(64, 64)
    decoded = decode(encode(image, file_format), LIMITS)
    assert decoded.format == file_format
    assert decoded.rgb.mode == "RGB"
    tolerance = 12 if file_format in ("JPEG", "WEBP", "AVIF", "JPEG2000") else 0
    centres = (16, 48)
    for y in centres:
        for x in centres:
            expected = np.array(image.getpixel((x, y)))
            assert np.abs(pixels(decoded.rgb)[y, x] - expected).max() <= tolerance


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation(file_format: str) -> None:
    second = Image.new("RGB", (64, 48), (1, 2, 3))
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(corners(), file_format, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.median(np.abs(pixels(decode(data, LIMITS).rgb) - pixels(corners()))) <= 6


@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "TGA"]
)
def test_truncated_files_are_refused(file_format: str) -> None:
    data = encode(smooth(200, 150), file_format)
    decode(data, LIMITS)
    for part in (0.05, 0.5, 0.9):
        refused(data[: int(len(data) * part)])


def test_a_truncated_progressive_jpeg_is_refused_when_drafted_too() -> None:
    data = encode(smooth(800, 600), "JPEG", progressive=True)
    with pytest.raises(ImageError, match="damaged"):
        decode(data[: len(data) // 2], LIMITS, target=100)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html>", "web page"),
        (b"<?xml version='1.0'?><svg xmlns=''/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + b"\0" * 99, "film"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"SIMPLE  =                    T" + b" " * 3000, "not a picture"),
        (b"hello", "not a picture"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, word: str) -> None:
    error = refused(data)
    assert word in error.message
    assert error.code == "unsupported_image_format"
    assert "404" not in error.message


@pytest.mark.parametrize(
    ("target", "width"),
    [(None, 1600), (801, 1600), (500, 1600), (400, 800), (200, 400), (100, 200), (10, 200)],
)
def test_a_jpeg_is_drafted_to_no_less_than_twice_the_target(target: int | None, width: int) -> None:
    image = smooth(1600, 1200)
    for orientation in (1, 6):
        upright = image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image
        data = stored(upright, orientation, "JPEG")
        decoded = decode(data, LIMITS, target=target)
        assert (decoded.source_width, decoded.source_height) == upright.size
        assert max(decoded.rgb.size) == width
        ours = decoded.rgb.resize(
            (upright.width // 20, upright.height // 20), Image.Resampling.BICUBIC
        )
        whole = upright.resize(ours.size, Image.Resampling.BICUBIC)
        assert np.abs(pixels(ours) - pixels(whole)).mean() < 1.5


def test_drafting_costs_no_quality() -> None:
    data = encode(smooth(1600, 1200), "JPEG", quality=90)
    small = [
        pixels(decode(data, LIMITS, target=target).rgb.resize((112, 84), Image.Resampling.BICUBIC))
        for target in (None, 112)
    ]
    assert np.abs(small[0] - small[1]).max() <= 2


def test_slow_decoders_get_small_pictures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(corners(), "QOI")
    decode(data, LIMITS)
    monkeypatch.setattr(decode_module, "_SLOW_PIXELS", 64 * 48 - 1)
    assert "64x48" in refused(data).message
    decode(encode(corners(), "PNG"), LIMITS)


def test_pillow_may_not_speak() -> None:
    # An animation that claims to have no frames: Pillow warns and reads the first picture.
    odd = png(64, 48, 8, 0, bytes(65 * 48), chunk(b"acTL", bytes(8)))
    with pytest.warns(UserWarning, match="APNG"):
        Image.open(io.BytesIO(odd)).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert decode(odd, LIMITS).rgb.size == (64, 48)
        ours = [entry for entry in warnings.filters if getattr(entry[3], "pattern", "") == r"PIL\."]
        assert len(ours) == 1


def test_threads_do_not_disturb_each_other() -> None:
    files = [encode(smooth(320, 240, seed), "PNG") for seed in range(6)]
    expected = [decode(data, LIMITS) for data in files]

    def again(number: int) -> DecodedImage:
        return decode(files[number % 6], LIMITS)

    with ThreadPoolExecutor(4) as pool:
        for number, decoded in enumerate(pool.map(again, range(24))):
            assert np.array_equal(pixels(decoded.rgb), pixels(expected[number % 6].rgb))
