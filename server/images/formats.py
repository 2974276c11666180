"""Which file formats are taken as pictures, and what is said of the others."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

# Pillow's names, tried in this order. TGA has no signature and therefore comes last. Left out are
# formats that start other programs (EPS starts Ghostscript), that only stand for a plug-in (BUFR,
# GRIB, HDF5, WMF), that are no pictures of people's (FITS, MPEG, SPIDER ...), and game textures.
FORMATS: Final = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "PPM",
    "ICO",
    "JPEG2000",
    "QOI",
    "PCX",
    "PSD",
    *(("HEIF",) if pillow_heif else ()),
    "TGA",
)

if pillow_heif is not None:
    # No threads for tiles, for the cores are the engine's; no thumbnails and depth maps.
    pillow_heif.register_heif_opener(
        decode_threads=0, thumbnails=False, depth_images=False, aux_images=False
    )

_HEIC_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_SEND: Final = "send JPEG, PNG, WebP, GIF, TIFF or AVIF"


def why_unknown(data: bytes) -> str:
    """Say what a file is that is none of FORMATS, from its first bytes, without repeating them."""
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if pillow_heif is None and data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return f"HEIC pictures need the pillow-heif plug-in, which is not installed; {_SEND}."
    if data[4:8] == b"ftyp":
        return f"This is a film (MP4 or QuickTime), not a picture; {_SEND}."
    if head.startswith(b"%pdf"):
        return f"This is a PDF document, not a picture; {_SEND}."
    if b"<svg" in head:
        return f"SVG drawings are not supported; {_SEND}."
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return f"This is a web page or XML text, not a picture; {_SEND}."
    return f"The bytes are not a picture in a format that is supported; {_SEND}."


def declared_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the sizes in pixels that a WebP's or an ICO's headers declare; none for others.

    Pillow allocates a WebP's canvas and decodes an ICO as it opens them, so their sizes must be
    known before. Sources: RFC 9649 (WebP), Microsoft's ICONDIRENTRY and BITMAPINFOHEADER.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        yield from _webp_size(data)
    elif data[:4] == b"\0\0\1\0":
        for entry in range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16):
            yield from _icon_size(data, int.from_bytes(data[entry + 12 : entry + 16], "little"))


def _webp_size(data: bytes) -> Iterator[tuple[int, int]]:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = data[24:27], data[27:30]
        yield int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        yield width & 0x3FFF, height & 0x3FFF


def _icon_size(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    head = data[offset : offset + 24]
    if len(head) < 24:
        return
    if head.startswith(b"\x89PNG"):
        width, height = struct.unpack_from(">II", head, 16)
        yield width, height
    elif head.startswith(b"\x0c\0\0\0"):
        width, height = struct.unpack_from("<HH", head, 4)
        yield width, height // 2
    else:
        # The height counts the colours and the mask below them; negative means top-down.
        width, height = struct.unpack_from("<ii", head, 4)
        yield abs(width), abs(height) // 2
