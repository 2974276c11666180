"""Pictures that are small to send and dear to decode, by codec. All are within the size limits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Final

from PIL import Image

from server.images.formats import FORMATS

Maker = Callable[[int], bytes]


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    width: int,
    height: int,
    between: bytes = b"",
    rows: bytes = b"",
    kind: tuple[int, int, int] = (8, 2, 0),
) -> bytes:
    """``kind`` is the bits of a sample, the colour type, and 1 for an interlaced one."""
    depth, colour, interlaced = kind
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    packed = zlib.compress(rows or (b"\0" + b"\x55" * 3 * width) * height, 9)
    body = between + _chunk(b"IDAT", packed) + _chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + head + body


def _jpeg() -> bytes:
    return _file(Image.new("RGB", (16, 16), (90, 20, 200)), "JPEG")


def _before_the_rest(segment: bytes, count: int) -> bytes:
    whole = _jpeg()
    return whole[:2] + segment * count + whole[2:]


def _tiff(
    width: int, height: int, places: tuple[tuple[int, int, int, int], ...], size: int
) -> bytes:
    """A grey TIFF whose tags in ``places`` point at ``size`` bytes, from the eighth on."""
    offset = 8 + size + (size & 1)
    head = b"II*\0" + struct.pack("<I", offset) + b"\x08" * size + b"\0" * (size & 1)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags = sorted([*tags, (262, 3, 1, 1), (277, 3, 1, 1), *places])
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head + struct.pack("<H", len(tags)) + listed + struct.pack("<I", 0)


def _tiff_strips(size: int) -> bytes:
    """A strip a row, their offsets one byte each: Pillow makes a tuple and a tile of each."""
    return _tiff(4, size, ((273, 1, size, 8), (278, 4, 1, 1), (279, 4, 1, 1)), size)


def _tiff_tiles(size: int) -> bytes:
    """Tiles of one pixel."""
    edge = 7000
    places = ((322, 4, 1, 1), (323, 4, 1, 1), (324, 1, size, 8), (325, 4, 1, 1))
    return _tiff(edge, edge, places, size)


def _tiff_tags(size: int) -> bytes:
    """Thousands of private tags, all of which point at the same bytes."""
    count = min(size // 14, 30_000)
    places = ((273, 4, 1, 8), (278, 4, 1, 4), (279, 4, 1, 16))
    return _tiff(4, 4, (*places, *((1000 + tag, 1, 300, 8) for tag in range(count))), 400)


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


@cache
def _flat(kind: str, edge: int, mode: str = "RGB", **options: object) -> bytes:
    """One colour, which takes few bytes however many pixels there are."""
    return _file(Image.new(mode, (edge, edge)), kind, **options)


def _flat_of(kind: str, most: int = 7071, mode: str = "RGB", **options: object) -> Maker:
    return lambda size: _flat(kind, min(most, size), mode, **options)


def _png_deep(size: int) -> bytes:
    """Eight bytes a pixel."""
    return _empty_png(min(7071, size), 16, 0)


def _png_interlaced(size: int) -> bytes:
    return _empty_png(min(5000, size), 8, 1)


@cache
def _empty_png(edge: int, depth: int, interlaced: int) -> bytes:
    row = depth // 8 * 4 * edge + 1
    # An interlaced one has more rows, and each has a byte before it.
    rows = bytes(row * edge + 8 * edge * interlaced)
    return _png(edge, edge, rows=rows, kind=(depth, 6, interlaced))


def _png_texts_packed(size: int) -> bytes:
    """Compressed texts: a hundred times as large unpacked, each below Pillow's limit for one."""
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9))
    return _png(8, 8, text * max(1, size // len(text)))


def _png_profile(size: int) -> bytes:
    """A colour profile that unpacks to a thousand times its size."""
    return _png(
        8, 8, _chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(min(200 * size, 200_000_000)), 1))
    )


def _apng_frames(size: int) -> bytes:
    def control(number: int) -> bytes:
        return _chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 8, 8, 0, 0, 1, 1, 0, 0))

    whole = _png(8, 8, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + control(0))
    data = _chunk(b"fdAT", struct.pack(">I", 2) + b"x")
    return whole[:-12] + (control(1) + data) * (size // 55) + whole[-12:]


def _gif_frames(size: int) -> bytes:
    whole = _file(Image.new("P", (8, 8)), "GIF")
    start = _gif_body(whole)
    return whole[:start] + whole[start:-1] * max(1, size // (len(whole) - start - 1)) + b";"


def _psd_channels(size: int) -> bytes:
    """Rows whose packed length is 0."""
    edge = min(7000, size)
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, edge, edge, 8, 3) + bytes(12)
    return head + struct.pack(">H", 1) + bytes(2 * 3 * edge)


def _psd_resources(size: int) -> bytes:
    blocks = b"8BIM\x04\x04\0\0\0\0\0\0" * (size // 12)
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 4, 4, 8, 3) + bytes(4)
    return head + struct.pack(">I", len(blocks)) + blocks + bytes(6 + 48)


def _bmp_runs(size: int) -> bytes:
    """Escapes that move to another pixel and write none; Pillow reads them in Python."""
    rows = b"\0\2\0\0" * (size // 4)
    info = struct.pack("<IiiHHIIiiII", 40, 2000, 2000, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(info) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + bytes(1024) + rows


def _qoi_pixels(size: int) -> bytes:
    """A pixel in five bytes each; Pillow reads them in Python."""
    edge = max(1, int((size // 5) ** 0.5))
    head = b"qoif" + struct.pack(">IIBB", edge, edge, 4, 0)
    return head + b"\xff\1\2\3\4" * (edge * edge) + bytes(7) + b"\1"


def _tga_runs(size: int) -> bytes:
    edge = min(7000, size)
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, edge, edge, 24, 0)
    return head + b"\xff\1\2\3" * (edge * edge // 128 + 1)


def _pcx_runs(size: int) -> bytes:
    edge = min(7000, size)
    head = struct.pack("<BBBBHHHHHH", 10, 5, 1, 8, 0, 0, edge - 1, edge - 1, 72, 72) + bytes(49)
    return head + struct.pack("<BHH", 3, edge, 1) + bytes(58) + b"\xff\0" * (3 * edge * edge // 63)


def _webp_frames(size: int) -> bytes:
    more = [
        Image.new("RGB", (16, 16), (number % 256, 1, 2)) for number in range(min(size // 60, 500))
    ]
    return _file(Image.new("RGB", (16, 16)), "WEBP", save_all=True, append_images=more)


# By codec: what makes such a file of about so many bytes. Of those that take few bytes a pixel the
# size is that of an edge instead, up to 50 megapixels.
HOSTILE: Final[dict[str, Maker]] = {
    "tiff-strips": _tiff_strips,
    "tiff-tiles": _tiff_tiles,
    "tiff-tags": _tiff_tags,
    "tiff-flat": _flat_of("TIFF", compression="tiff_adobe_deflate"),
    "tiff-floats-flat": _flat_of("TIFF", mode="F", compression="tiff_lzw"),
    "jpeg-scans": _jpeg_scans,
    "jpeg-exif": lambda size: _before_the_rest(b"\xff\xe1\x00\x0aExif\0\0xx", size // 12),
    "jpeg-comments": lambda size: _before_the_rest(b"\xff\xfe\x00\x03c", size // 5),
    "jpeg-segments": lambda size: _before_the_rest(b"\xff\xe5\x00\x02", size // 4),
    "jpeg-profiles": lambda size: _before_the_rest(
        b"\xff\xe2\x00\x10ICC_PROFILE\0\1\1", size // 18
    ),
    "jpeg-fill": lambda size: _before_the_rest(b"\xff", size),
    "jpeg-flat": _flat_of("JPEG", progressive=True),
    "jpeg2000-flat": _flat_of("JPEG2000", quality_layers=(1000,)),
    "jpeg2000-tiles-flat": _flat_of("JPEG2000", 3000, tile_size=(32, 32)),
    "png-chunks": lambda size: _png(8, 8, _chunk(b"aaAa") * (size // 12)),
    "png-texts": lambda size: _png(8, 8, _chunk(b"tEXt", b"k\0v") * (size // 15)),
    "png-texts-packed": _png_texts_packed,
    "png-profile": _png_profile,
    "png-tall": lambda size: _png(1, min(size, 32_768)),
    "png-deep": _png_deep,
    "png-interlaced": _png_interlaced,
    "apng-frames": _apng_frames,
    "gif-comments": lambda size: _gif(b"\x21\xfe\x01c\x00" * (size // 5)),
    "gif-extensions": lambda size: _gif(b"\x21\x01\x00" * (size // 3)),
    "gif-frames": _gif_frames,
    "gif-flat": _flat_of("GIF", mode="P"),
    "ppm-comments": lambda size: b"P6\n" + b"#\n" * (size // 2) + b"4 4\n255\n" + bytes(48),
    "ppm-plain": lambda size: b"P3\n4 4\n255\n" + b"#\n" * (size // 2) + b"1 " * 48,
    "ppm-digits": lambda size: b"P1\n1000 %d\n" % max(1, size // 2000) + b"1 " * (size // 2),
    "ico-entries": lambda size: _icon(min(size // 16, 65_535)),
    "bmp-runs": _bmp_runs,
    "psd-channels": _psd_channels,
    "psd-resources": _psd_resources,
    "qoi-pixels": _qoi_pixels,
    "tga-runs": _tga_runs,
    "pcx-runs": _pcx_runs,
    "webp-flat": _flat_of("WEBP", 4000, mode="RGBA", lossless=True, quality=0, method=0),
    "webp-frames": _webp_frames,
    "avif-flat": _flat_of("AVIF", 4000, speed=10, quality=1),
    **({"heif-flat": _flat_of("HEIF", 2000, quality=1)} if "HEIF" in FORMATS else {}),
}


def _gif_body(whole: bytes) -> int:
    """Where a GIF's first picture begins."""
    return whole.index(b"\x2c", 13 + 3 * (2 << (whole[10] & 7)) if whole[10] & 128 else 13)


def _gif(between: bytes) -> bytes:
    whole = _file(Image.new("P", (8, 8)), "GIF")
    at = _gif_body(whole)
    return whole[:at] + between + whole[at:]


def _icon(count: int) -> bytes:
    entry = _png(16, 16)
    where = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(entry), 6 + 16 * count)
    return b"\0\0\1\0" + struct.pack("<H", count) + where * count + entry
