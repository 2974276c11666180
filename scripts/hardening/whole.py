"""Whole small pictures in every format that is taken, in the shapes that their formats come in."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from server.images.formats import FORMATS

SIZE = (48, 36)


def _colours(seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _with_alpha() -> Image.Image:
    image = _colours().convert("RGBA")
    image.putalpha(_colours(1).convert("L"))
    return image


def _deep() -> Image.Image:
    grey = np.asarray(_colours().convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 257)


def _float() -> Image.Image:
    return Image.fromarray(np.asarray(_colours().convert("L")).astype(np.float32) / 255)


def _psd() -> bytes:
    """Adobe Photoshop File Formats: header, three empty sections, planes without compression."""
    width, height = SIZE
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3)
    planes = b"".join(band.tobytes() for band in _colours().split())
    return head + bytes(12) + struct.pack(">H", 0) + planes


def _profile() -> bytes:
    """An RGB profile under a name by which it is not skipped as sRGB's own."""
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return own.replace("sRGB".encode("utf-16-be"), "oRGB".encode("utf-16-be"))


def _jpegs(image: Image.Image) -> dict[str, bytes]:
    return {
        "jpeg": _file(image, "JPEG"),
        "jpeg-turned": _file(image, "JPEG", exif=_exif(6), comment=b"a comment"),
        "jpeg-progressive": _file(image, "JPEG", progressive=True, subsampling=2),
        "jpeg-restarts": _file(image, "JPEG", restart_marker_rows=1, optimize=True),
        "jpeg-grey": _file(image.convert("L"), "JPEG"),
        "jpeg-cmyk": _file(image.convert("CMYK"), "JPEG"),
        "jpeg-profile": _file(image, "JPEG", icc_profile=_profile()),
        "mpo": _file(image, "MPO", save_all=True, append_images=[_colours(2)]),
    }


def _pngs(image: Image.Image) -> dict[str, bytes]:
    palette = image.quantize(16)
    return {
        "png": _file(image, "PNG", exif=_exif(8)),
        "png-alpha": _file(_with_alpha(), "PNG"),
        "png-palette": _file(palette, "PNG", transparency=bytes([0, 128, 255])),
        "png-grey-key": _file(image.convert("L"), "PNG", transparency=128),
        "png-grey-alpha": _file(_with_alpha().convert("LA"), "PNG"),
        "png-deep": _file(_deep(), "PNG"),
        "png-bits": _file(image.convert("1"), "PNG"),
        "apng": _file(image, "PNG", save_all=True, append_images=[_colours(3)], duration=50),
    }


def _tiffs(image: Image.Image) -> dict[str, bytes]:
    return {
        "tiff": _file(image, "TIFF", tiffinfo={274: 5}),
        "tiff-lzw": _file(_with_alpha(), "TIFF", compression="tiff_lzw"),
        "tiff-deflate": _file(image.quantize(8), "TIFF", compression="tiff_adobe_deflate"),
        "tiff-packbits": _file(image.convert("CMYK"), "TIFF", compression="packbits"),
        "tiff-jpeg": _file(image, "TIFF", compression="jpeg"),
        "tiff-fax": _file(image.convert("1"), "TIFF", compression="group4"),
        "tiff-deep": _file(_deep(), "TIFF"),
        "tiff-float": _file(_float(), "TIFF"),
    }


def _others(image: Image.Image) -> dict[str, bytes]:
    more = {"save_all": True, "append_images": [_colours(4)], "duration": 40}
    return {
        "webp": _file(image, "WEBP", exif=_exif(3)),
        "webp-lossless": _file(_with_alpha(), "WEBP", lossless=True),
        "webp-animated": _file(image, "WEBP", **more),
        "gif": _file(image, "GIF", transparency=3),
        "gif-animated": _file(image, "GIF", **more, disposal=2),
        "bmp": _file(image, "BMP"),
        "bmp-palette": _file(image.quantize(16), "BMP"),
        "avif": _file(image, "AVIF", speed=10),
        "avif-alpha": _file(_with_alpha(), "AVIF", speed=10),
        "ppm": _file(image, "PPM"),
        "pgm-deep": _file(_deep(), "PPM"),
        "pbm": _file(image.convert("1"), "PPM"),
        "pfm": _file(_float(), "PPM"),
        "ppm-text": b"P3\n4 2\n255\n" + b"0 128 255 " * 8,
        "ico": _file(_with_alpha(), "ICO", sizes=[(16, 16), (32, 32)]),
        "ico-bitmap": _file(_with_alpha(), "ICO", sizes=[(16, 16)], bitmap_format="bmp"),
        "jpeg2000": _file(image, "JPEG2000"),
        "j2k": _file(_with_alpha(), "JPEG2000", no_jp2=True, irreversible=True),
        "qoi": _file(_with_alpha(), "QOI"),
        "pcx": _file(image, "PCX"),
        "pcx-palette": _file(image.quantize(16), "PCX"),
        "psd": _psd(),
        "tga": _file(image, "TGA"),
        "tga-packed": _file(_with_alpha(), "TGA", compression="tga_rle"),
    }


def whole_pictures() -> dict[str, bytes]:
    """The files by a name that begins with the format."""
    image = _colours()
    files = _jpegs(image) | _pngs(image) | _tiffs(image) | _others(image)
    if "HEIF" in FORMATS:
        files["heif"] = _file(image, "HEIF")
        files["heif-alpha"] = _file(_with_alpha(), "HEIF")
    return files
