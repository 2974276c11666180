"""Prepared pictures: on the way from a decoder to the web process, and those that are kept there.

What a decoder returns is checked before it is used: a picture that found a way into its codec may
speak for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from cachetools import LRUCache

from server.decoders.work import Decoded
from server.images.options import ImageOptions
from server.messages import ImageInput, TileLayout, VisionFacts

# The functions that a decoder calls, and what it imports for them.
JOBS: Final = "server.images.jobs"
PREPARE: Final = f"{JOBS}:prepare_picture"
INSPECT: Final = f"{JOBS}:inspect_picture"

_NUMBERS: Final = ("width", "height", "source_width", "source_height", "pool")
_RESIZED: Final = ("resized_width", "resized_height")


@dataclass(slots=True, frozen=True)
class Inspection:
    """A picture's file: its format in Pillow's words, its size in pixels as stored (not yet
    turned upright), and what the engine would be handed.
    """

    format: str
    stored_width: int
    stored_height: int
    n_bytes: int
    image: ImageInput


def unpack(decoded: Decoded, digest: str, seconds: float) -> ImageInput:
    """The picture that a decoder packed. Raises ValueError for what no picture could be."""
    fields, (rgb, *tiles) = decoded.fields, decoded.buffers
    numbers = {name: _number(fields[name], 1) for name in _NUMBERS}
    numbers |= {name: _number(fields[name], 0) for name in _RESIZED}
    layout = None if fields["layout"] is None else _layout(fields["layout"])
    n_tiles = 0 if layout is None else layout.columns * layout.rows
    size = numbers["width"] * numbers["height"] * 3
    if len(tiles) != n_tiles or any(len(each) != size for each in (rgb, *tiles)):
        raise ValueError("the pixels are not as many as the sizes say")
    return ImageInput(
        digest,
        numbers["width"],
        numbers["height"],
        rgb,
        numbers["source_width"],
        numbers["source_height"],
        tiles=tuple(tiles),
        layout=layout,
        detail="low" if fields["detail"] == "low" else "high",
        pool=numbers["pool"],
        resized_width=numbers["resized_width"],
        resized_height=numbers["resized_height"],
        decode_seconds=seconds,
    )


def unpack_inspection(decoded: Decoded, n_bytes: int, digest: str, seconds: float) -> Inspection:
    """What was packed with ``format``, ``stored_width`` and ``stored_height``."""
    fields = decoded.fields
    return Inspection(
        str(fields["format"]),
        _number(fields["stored_width"], 0),
        _number(fields["stored_height"], 0),
        n_bytes,
        unpack(decoded, digest, seconds),
    )


def _layout(fields: dict[str, Any]) -> TileLayout:
    layout = TileLayout(**{name: _number(value, 0) for name, value in fields.items()})
    if not (layout.columns and layout.rows and layout.width and layout.height):
        raise ValueError("an empty layout")
    return layout


def _number(value: object, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise ValueError("a size that is none")
    return value


# A key, the objects around the pixels, and their places in the dictionary; a picture may have as
# few as three bytes of pixels, and there must be no room for millions of them.
_OVERHEAD: Final = 2048


@dataclass(slots=True, frozen=True)
class PictureKey:
    """All that a prepared picture depends on. ``source`` is the SHA-256 of what it came from."""

    source: bytes
    tower: VisionFacts
    options: ImageOptions


class PreparedCache:
    """Prepared pictures, least recently used out, of ``max_bytes`` together; 0 keeps none.

    ``n_bytes`` counts their pixels and what is around them. For one thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._pictures: LRUCache[PictureKey, ImageInput] = LRUCache(max_bytes, getsizeof=size_of)

    @property
    def n_bytes(self) -> int:
        """What all pictures take."""
        return int(self._pictures.currsize)

    def get(self, key: PictureKey) -> ImageInput | None:
        """The picture, whose ``decode_seconds`` are 0, or None."""
        return self._pictures.get(key)

    def put(self, key: PictureKey, picture: ImageInput) -> None:
        """Keeps the picture if it fits at all, and drops the oldest ones beyond the bound."""
        if key not in self._pictures and size_of(picture) <= self._pictures.maxsize:
            self._pictures[key] = replace(picture, decode_seconds=0.0)


def size_of(picture: ImageInput) -> int:
    """Bytes that a prepared picture takes."""
    return len(picture.rgb) + sum(map(len, picture.tiles)) + _OVERHEAD
