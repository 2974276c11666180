"""ImageOptions: how the operator wants pictures prepared, and the digest that follows from it.

Read by the web process, which loads no codec: nothing here imports Pillow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Literal

from server.images.geometry import mean_colour
from server.images.limits import ImageLimits
from server.messages import VisionFacts

# Part of every digest: raise it whenever the same file would give other pixels.
_VERSION: Final = 3

Detail = Literal["auto", "low", "high"]


@dataclass(slots=True, frozen=True)
class ImageOptions:
    """The operator's choices. ``max_edge`` caps the longest edge in pixels for towers that take
    any size or tiles (one that sees a single square has its own size); ``background`` shows
    through transparency. ``detail``, which a request may choose for each picture: "high" and
    "auto" as the model's reference has it, "low" with fewer tokens.
    """

    limits: ImageLimits = field(default_factory=ImageLimits)
    max_edge: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    detail: Detail = "auto"

    @property
    def low(self) -> bool:
        """Whether fewer tokens are wanted."""
        return self.detail == "low"


def source_digest(data: bytes) -> bytes:
    """The SHA-256 of a picture's file, by which it is known everywhere."""
    return hashlib.sha256(data).digest()


def image_digest(source: bytes, tower: VisionFacts, options: ImageOptions) -> str:
    """Everything that pixels and rows depend on, so that no cache mistakes one for another.

    ``source`` is the file's ``source_digest``: no file is hashed twice.
    """
    how: tuple[object, ...]
    if tower.tiled:
        side = tower.tokens_per_image, tower.row_newlines
        how = ("tiles", tower.image_size, tower.pinpoints, *side, options.max_edge)
    elif tower.fixed:
        how = ("square", tower.image_size, mean_colour(tower.image_mean))
    else:
        how = ("any", options.max_edge, tower.patch_size, tower.most_pixels)
    key = repr((_VERSION, how, options.background, options.low)).encode()
    return hashlib.sha256(key + b"\0" + source).hexdigest()
