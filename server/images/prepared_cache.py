"""KeptPictures: what was prepared before, so that it need not be decoded and resized again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cachetools import LRUCache

from server.images.options import ImageOptions
from server.messages import ImageInput, VisionFacts

# A key, the objects around the pixels, and their places in the dictionary; a picture may have as
# few as three bytes of pixels, and there must be no room for millions of them.
_OVERHEAD: Final = 2048


@dataclass(slots=True, frozen=True)
class PictureKey:
    """All that a prepared picture depends on. ``source`` is the SHA-256 of what it came from."""

    source: bytes
    tower: VisionFacts
    options: ImageOptions


class KeptPictures:
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
