"""A GGUF header: metadata and tensor table, every length held against the bytes that are left.

The gguf package's reader trusts the lengths it reads: an array that claims 2**60 items keeps it
busy for ever.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from server.gguf.cursor import ByteSource, Cursor, MalformedError, Tensor


@dataclass(slots=True, frozen=True)
class Entry:
    """A metadata entry. ``raw`` is its bytes in the file: key, type, value; empty if not asked."""

    value: Any
    raw: bytes = b""


@dataclass(slots=True, frozen=True)
class GGUFHeader:
    """Metadata and tensors, their offsets counted from the file's beginning.

    ``end`` is where the header ends and the padding before the data begins.
    """

    metadata: dict[str, Entry]
    tensors: dict[str, Tensor]
    alignment: int
    end: int


def parse_header(source: ByteSource, *, raw: bool = True, longest: int | None = None) -> GGUFHeader:
    """Reads the header of a GGUF file of version 2 or 3; tensor data is not read.

    Without ``raw`` entries carry no bytes; lists of more than ``longest`` items become LongList.

    Raises:
        MalformedError: it is not a whole GGUF; the message says what is wrong.
    """
    cursor = Cursor(source, longest)
    if source.size < 24 or cursor.take(4) != b"GGUF":
        raise MalformedError("it is not a GGUF file")
    version = cursor.number("<I")
    if version in {2 << 24, 3 << 24}:
        raise MalformedError("it is written for big-endian machines")
    if version not in {2, 3}:
        raise MalformedError(f"it has GGUF version {version}, versions 2 and 3 are known")
    n_tensors, n_entries = cursor.length(), cursor.length()
    metadata = _metadata(cursor, n_entries, raw=raw)
    entry = metadata.get("general.alignment")
    alignment = entry.value if entry else 32
    if type(alignment) is not int or not 0 < alignment < 1 << 20 or alignment & (alignment - 1):
        raise MalformedError(f"alignment {alignment!r} is no power of two")
    infos = [cursor.tensor() for _ in range(min(n_tensors, source.size))]
    start = -(-cursor.place // alignment) * alignment
    tensors = {info.name: _placed(info, start, source.size) for info in infos}
    if len(tensors) != n_tensors:
        raise MalformedError("a tensor appears twice")
    return GGUFHeader(metadata, tensors, alignment, cursor.place)


def _metadata(cursor: Cursor, count: int, *, raw: bool) -> dict[str, Entry]:
    metadata: dict[str, Entry] = {}
    for _ in range(count):
        start = cursor.place
        key = cursor.name()
        value = cursor.value(cursor.number("<I"))
        if key in metadata:
            raise MalformedError(f"key {key!r} appears twice")
        metadata[key] = Entry(value, cursor.bytes_from(start) if raw else b"")
    return metadata


def _placed(info: Tensor, start: int, end: int) -> Tensor:
    offset = start + info.offset
    if offset + info.n_bytes > end:
        raise MalformedError(f"it ends inside tensor {info.name!r}, the download is incomplete")
    return replace(info, offset=offset)
