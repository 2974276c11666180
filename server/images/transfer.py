"""Prepared pictures between a decoder and the web process, which loads no codec.

What a decoder returns is checked before it is used: a picture that found a way into its codec may
speak for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from server.decoders.work import Decoded
from server.messages import ImageInput, TileLayout

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
