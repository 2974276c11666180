"""Every pixel layout as a person sees it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from image_files import chunk, corners, encode, pixels, png, smooth
from PIL import Image, ImageCms

from server.errors import ImageError
from server.images.decode import decode
from server.images.options import ImageLimits

LIMITS = ImageLimits()


def shown(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    image = decode(data, LIMITS, background=background).rgb
    assert image.mode == "RGB"
    return pixels(image)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "ICO", "TGA", "QOI"])
def test_random_colours_under_alpha_0_are_background(file_format: str) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (48, 48, 4), dtype=np.uint8)
    levels[:24, :, 3] = 0
    levels[24:, :, 3] = 255
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    result = shown(encode(Image.fromarray(levels), file_format, **options))
    assert (result[:24] == 255).all()
    assert np.array_equal(result[24:], levels[24:, :, :3])


def test_half_transparent_on_another_background() -> None:
    data = encode(Image.new("RGBA", (4, 4), (200, 0, 100, 128)), "PNG")
    assert np.abs(shown(data, (0, 100, 0)) - (100, 50, 50)).max() <= 1


def test_other_layouts_with_alpha() -> None:
    alpha = Image.new("L", (64, 48), 255)
    alpha.paste(0, (0, 0, 32, 48))
    palette = corners().quantize(8)
    palette.putalpha(alpha)
    assert palette.mode == "PA"
    grey = corners().convert("L")
    for image, file_format, opaque in [
        (palette, "TIFF", corners()),
        (Image.merge("LA", (grey, alpha)), "PNG", grey.convert("RGB")),
    ]:
        result = shown(encode(image, file_format))
        assert (result[:, :32] == 255).all()
        assert np.array_equal(result[:, 32:], pixels(opaque)[:, 32:])


def test_palette_with_and_without_transparency() -> None:
    image = corners().quantize(8)
    assert np.array_equal(shown(encode(image, "PNG")), pixels(corners()))
    red = image.getpixel((0, 0))
    for file_format in ("PNG", "GIF"):
        result = shown(encode(image, file_format, transparency=red))
        assert (result[:24, :32] == 255).all()
        assert np.array_equal(result[24:], pixels(corners())[24:])


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "expected"),
    [
        (1, 0, b"\x50", (1,), [[0], [255], [0], [255]]),  # pixels 0 1 0 1; the ones are clear
        (2, 0, b"\x1b", (2,), [[0], [85], [255], [255]]),  # 0 1 2 3
        (4, 0, b"\x5f\x00", (5,), [[255], [255], [0], [0]]),  # 5 15 0 0
        (
            16,
            0,
            struct.pack(">4H", 0x8000, 0x8001, 0, 65535),
            (0x8000,),
            [[255], [128], [0], [255]],
        ),
        (
            16,
            2,
            struct.pack(">12H", 0x8000, 0x4000, 0x2000, *[0x1000] * 3, *[0] * 3, *[65535] * 3),
            (0x8000, 0x4000, 0x2000),
            [[255], [16], [0], [255]],
        ),
        (8, 2, bytes([9, 8, 7, 1, 1, 1, 2, 2, 2, 3, 3, 3]), (9, 8, 7), [[255], [1], [2], [3]]),
    ],
)
def test_a_transparent_colour_at_every_depth(
    depth: int, colour: int, row: bytes, key: tuple[int, ...], expected: list[list[int]]
) -> None:
    extra = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    result = shown(png(4, 1, depth, colour, b"\0" + row, extra))
    assert np.array_equal(result[0], np.broadcast_to(expected, (4, 3)))


def test_deep_greys_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(4, axis=0)
    expected = np.arange(256)
    for data in (
        encode(Image.fromarray(ramp), "PNG"),
        encode(Image.fromarray(ramp), "TIFF"),
        encode(Image.fromarray(ramp), "TIFF", compression="tiff_lzw"),
        encode(Image.fromarray(ramp), "JPEG2000"),
        encode(Image.fromarray(ramp.astype(np.int32)), "PPM"),
        encode(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        encode(Image.fromarray(ramp.astype(np.int32) * 1000 - 99), "TIFF"),
        encode(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        encode(Image.fromarray((ramp / 77.0 - 12).astype(np.float32)), "TIFF"),
    ):
        assert np.abs(shown(data)[0, :, 0] - expected).max() <= 1


def test_a_12_bit_scan_counts_to_4095() -> None:
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1)]
    entries.append((279, 3))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    assert len(head) == 122
    assert shown(head + b"\xff\xf8\x00")[0, :, 0].tolist() == [255, 128]


def test_dark_deep_greys_stay_dark() -> None:
    dark = np.full((4, 4), 200, np.int32)
    assert shown(encode(Image.fromarray(dark), "PPM")).max() <= 1
    assert (shown(encode(Image.fromarray(dark), "TIFF")) == 200).all()


def test_floats_that_are_no_numbers_are_refused() -> None:
    image = Image.fromarray(np.full((4, 4), np.inf, np.float32))
    with pytest.raises(ImageError, match="damaged"):
        decode(encode(image, "TIFF"), LIMITS, param="x")


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk(file_format: str) -> None:
    for ink, colour in [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0,) * 4, (255,) * 3),
    ]:
        data = encode(Image.new("CMYK", (16, 16), ink), file_format)
        assert np.abs(shown(data) - colour).max() <= 4


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("1", "PNG"), ("1", "TIFF"), ("L", "JPEG"), ("YCbCr", "TIFF"), ("LAB", "TIFF"), ("P", "BMP")],
)
def test_black_and_white_in_other_layouts(mode: str, file_format: str) -> None:
    image = Image.new("RGB", (16, 16), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 8))
    result = shown(encode(image.convert(mode), file_format))
    assert result[:8].max() <= 6
    assert result[8:].min() >= 249


def swapped_profile() -> bytes:
    """Pillow's sRGB profile with the primaries of red and green exchanged, under another name."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    assert data.count(b"rXYZ") == data.count(b"gXYZ") == 1
    return data.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_applied(mode: str) -> None:
    image = Image.new(mode, (8, 8), (255, 0, 0))
    assert (
        np.abs(shown(encode(image, "PNG", icc_profile=swapped_profile())) - (0, 255, 0)).max() <= 3
    )


def test_a_useless_colour_profile_is_ignored() -> None:
    image = smooth(16, 16)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"nonsense", swapped_profile()[:300], srgb):
        assert np.array_equal(shown(encode(image, "PNG", icc_profile=profile)), pixels(image))
    # A profile for colours says nothing about greys.
    grey = shown(encode(Image.new("L", (8, 8), 77), "PNG", icc_profile=swapped_profile()))
    assert (grey == 77).all()
