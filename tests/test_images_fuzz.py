"""Damaged files: a picture or an ImageError, and nothing else."""

from __future__ import annotations

import random

import pytest
from image_files import encode, smooth, tower

from server.errors import ImageError
from server.images.options import ImageLimits, ImageOptions
from server.images.prepare import prepare

ROUNDS = 50
OPTIONS = ImageOptions(limits=ImageLimits(max_pixels=1_000_000, max_side=4096))
SPECIAL = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, most of them in the headers, or cut, double or drop a piece."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        end = min(len(out), 200) if chance.random() < 0.7 else len(out)
        at = chance.randrange(max(1, end))
        kind = chance.random()
        if kind < 0.5:
            out[at : at + 1] = bytes([chance.randrange(256)])
        elif kind < 0.75:
            out[at : at + 4] = chance.choice(SPECIAL)
        elif kind < 0.85:
            del out[at : at + chance.randrange(1, 40)]
        elif kind < 0.95:
            out[at:at] = out[at : at + chance.randrange(1, 40)]
        else:
            del out[len(out) // 2 + at // 2 :]
    return bytes(out)


@pytest.mark.parametrize(
    "file_format",
    [
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
        "TGA",
    ],
)
def test_mutated_files(file_format: str) -> None:
    whole = encode(smooth(80, 60), file_format)
    chance = random.Random(file_format)  # Seeded with the name: the same files at each run.
    fields: list[str | None] = []
    for _ in range(ROUNDS):
        try:
            image = prepare(mutate(whole, chance), tower(), OPTIONS, "here")
        except ImageError as error:
            fields.append(error.param)
        else:
            assert len(image.rgb) == 112 * 112 * 3
    # Some are refused, or the mutations would have missed what matters.
    assert set(fields) == {"here"}
