"""Damages picture files as it hurts parsers: headers first, lengths, pieces, mended checksums."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from random import Random

HEAD = 256  # most of what a parser trusts stands here
LONGEST = 64 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"
# What integers of files are not expected to be.
_ODD = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_FIELDS = (">H", "<H", ">I", "<I")


def _place(data: bytearray, chance: Random) -> int:
    end = min(len(data), HEAD) if chance.random() < 0.6 else len(data)
    return chance.randrange(max(end, 1))


def _flip_bit(data: bytearray, chance: Random) -> None:
    at = _place(data, chance)
    data[at : at + 1] = bytes(byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1])


def _set_byte(data: bytearray, chance: Random) -> None:
    at = _place(data, chance)
    data[at : at + 1] = bytes([chance.randrange(256)])


def _set_field(data: bytearray, chance: Random) -> None:
    at, kind = _place(data, chance), chance.choice(_FIELDS)
    size = struct.calcsize(kind)
    data[at : at + size] = struct.pack(kind, chance.choice(_ODD) & (1 << 8 * size) - 1)


def _nudge_field(data: bytearray, chance: Random) -> None:
    at, kind = _place(data, chance), chance.choice(_FIELDS)
    size = struct.calcsize(kind)
    if at + size <= len(data):
        (value,) = struct.unpack_from(kind, data, at)
        struct.pack_into(kind, data, at, value + chance.randint(-9, 9) & (1 << 8 * size) - 1)


def _drop(data: bytearray, chance: Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randint(1, 64)]


def _double(data: bytearray, chance: Random) -> None:
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.randint(1, 64)] * chance.choice((1, 1, 2, 40))


def _insert(data: bytearray, chance: Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.randint(1, 32))


def _blank(data: bytearray, chance: Random) -> None:
    at, size = _place(data, chance), chance.randint(1, 64)
    data[at : at + size] = bytes([chance.choice((0, 255))]) * len(data[at : at + size])


def _cut(data: bytearray, chance: Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _exchange(data: bytearray, chance: Random) -> None:
    first, second, size = _place(data, chance), _place(data, chance), chance.randint(1, 24)
    one, other = bytes(data[first : first + size]), bytes(data[second : second + size])
    if len(one) == len(other):
        data[first : first + size], data[second : second + size] = other, one


_WAYS: tuple[tuple[Callable[[bytearray, Random], None], int], ...] = (
    (_flip_bit, 20),
    (_set_byte, 20),
    (_set_field, 25),
    (_nudge_field, 12),
    (_drop, 6),
    (_double, 5),
    (_insert, 4),
    (_blank, 4),
    (_cut, 4),
    (_exchange, 4),
)


def damage(data: bytes, chance: Random, longest: int = LONGEST) -> bytes:
    """The file with one to sixteen damages; of a PNG, mostly with checksums that fit."""
    changed = bytearray(data)
    ways, weights = zip(*_WAYS, strict=True)
    for way in chance.choices(ways, weights, k=chance.choice((1, 1, 1, 2, 3, 6, 16))):
        way(changed, chance)
    if data.startswith(_PNG) and chance.random() < 0.8:
        changed = _checksums_mended(changed)
    return bytes(changed[:longest])


def _checksums_mended(data: bytearray) -> bytearray:
    """Otherwise every damage of a PNG would end at its first checksum."""
    at = len(_PNG)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def splice(one: bytes, other: bytes, chance: Random) -> bytes:
    """One file's beginning with another's end."""
    return one[: chance.randrange(1, len(one))] + other[chance.randrange(len(other)) :]


def damaged_pictures(
    whole: Mapping[str, bytes], count: int, seed: int
) -> Iterator[tuple[str, bytes]]:
    """``count`` files, the formats in turn, by a name that tells whole file, seed and number.

    Each one depends on the seed and its number alone, so it can be made again by itself.
    """
    names = sorted(whole)
    for number in range(count):
        chance = Random(f"{seed}/{number}")
        name = names[number % len(names)]
        data = whole[name]
        if chance.random() < 0.04:
            data = splice(data, whole[chance.choice(names)], chance)
        yield f"{name}/{seed}/{number}", damage(data, chance)
