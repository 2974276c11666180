"""Pictures that are small to send and dear to decode, by codec. All are within the size limits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import Image

Maker = Callable[[int], bytes]


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, between: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\x55" * 3 * width) * height, 9)
    body = between + _chunk(b"IDAT", rows) + _chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + head + body


def _jpeg() -> bytes:
    return _file(Image.new("RGB", (16, 16), (90, 20, 200)), "JPEG")


def _before_the_rest(segment: bytes, count: int) -> bytes:
    whole = _jpeg()
    return whole[:2] + segment * count + whole[2:]


def _tiff_strips(size: int) -> bytes:
    """A strip a row, their offsets one byte each: Pillow makes a tuple and a tile of each."""
    offset = 8 + size + (size & 1)
    head = b"II*\0" + struct.pack("<I", offset) + b"\x08" * size + b"\0" * (size & 1)
    tags = [(256, 4, 1, 4), (257, 4, 1, size), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 1, size, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 1)]
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head + struct.pack("<H", len(tags)) + listed + struct.pack("<I", 0)


def _jpeg_scans(size: int) -> bytes:
    """A progressive JPEG of 50 megapixels with many empty scans, each of which walks all blocks."""
    edge = 7071
    blocks = ((edge + 7) // 8) ** 2
    tables = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\x01" * 64
    tables += b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, edge, edge, 1) + bytes([1, 0x11, 0])
    for kind, symbols in ((0, [0]), (1, [0xE0, 0x00])):
        counts = bytes([0, len(symbols)]) + bytes(14)
        tables += b"\xff\xc4" + struct.pack(">HB", 19 + len(symbols), kind << 4) + counts
        tables += bytes(symbols)
    first = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 0, 0)
    first += bytes((2 * blocks + 7) // 8)
    runs = ("00" + "1" * 14) * -(-blocks // 32767)
    data = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\x00")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0) + data
    return b"\xff\xd8" + tables + first + scan * max(1, size // len(scan)) + b"\xff\xd9"


def _jpeg2000(size: int) -> bytes:
    """One colour at 50 megapixels: 5 KB."""
    edge = min(7071, size)
    return _file(Image.new("RGB", (edge, edge), (9, 99, 9)), "JPEG2000", quality_layers=[1000])


# By codec: what makes such a file, of about so many bytes (of J2K and of the tall PNG, pixels).
HOSTILE: Final[dict[str, Maker]] = {
    "tiff-strips": _tiff_strips,
    "jpeg-scans": _jpeg_scans,
    "jpeg-exif": lambda size: _before_the_rest(b"\xff\xe1\x00\x0aExif\0\0xx", size // 12),
    "jpeg-comments": lambda size: _before_the_rest(b"\xff\xfe\x00\x03c", size // 5),
    "jpeg2000-flat": _jpeg2000,
    "png-chunks": lambda size: _png(8, 8, _chunk(b"aaAa") * (size // 12)),
    "png-texts": lambda size: _png(8, 8, _chunk(b"tEXt", b"k\0v") * (size // 15)),
    "png-tall": lambda size: _png(1, min(size, 32_768)),
    "gif-comments": lambda size: _gif(b"\x21\xfe\x01c\x00" * (size // 5)),
    "ppm-comments": lambda size: b"P6\n" + b"#\n" * (size // 2) + b"4 4\n255\n" + bytes(48),
    "ppm-plain": lambda size: b"P3\n4 4\n255\n" + b"#\n" * (size // 2) + b"1 " * 48,
    "ico-entries": lambda size: _icon(min(size // 16, 65_535)),
}


def _gif(between: bytes) -> bytes:
    whole = _file(Image.new("P", (8, 8)), "GIF")
    at = whole.index(b"\x2c", 13 + 3 * (2 << (whole[10] & 7)) if whole[10] & 128 else 13)
    return whole[:at] + between + whole[at:]


def _icon(count: int) -> bytes:
    entry = _png(16, 16)
    where = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(entry), 6 + 16 * count)
    return b"\0\0\1\0" + struct.pack("<H", count) + where * count + entry
