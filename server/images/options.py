"""How the operator wants pictures prepared, what they may weigh and measure, and their digests.

Read by the web process, which loads no codec: nothing here imports Pillow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from server.defaults import (
    IMAGE_MAX_BYTES,
    IMAGE_MAX_COUNT,
    IMAGE_MAX_PIXELS,
    IMAGE_MAX_SIDE,
)
from server.errors import ConfigError, ImageError
from server.images.geometry import mean_colour
from server.messages import VisionFacts

if TYPE_CHECKING:
    from PIL import Image  # the web process, which reads the limits, loads no codec

# Pillow itself refuses more (twice its MAX_IMAGE_PIXELS), so a higher limit would be a lie.
MAX_PIXELS_CEILING: Final = 178_956_970


@dataclass(slots=True, frozen=True)
class ImageLimits:
    """Limits of one picture, and of the number of pictures in a request.

    ``max_bytes`` counts the file as decoded from base64, ``max_pixels`` is width times height as
    the header declares them, ``max_side`` is in pixels. The defaults take a 50-megapixel phone
    picture; a decoded pixel takes 4 bytes, and a transparent picture is held twice. Of an
    animation only the first frame is decoded, so ``max_frames`` None takes any number.

    Raises ConfigError for a limit that is not positive or that Pillow cannot honour.
    """

    max_bytes: int = IMAGE_MAX_BYTES
    max_pixels: int = IMAGE_MAX_PIXELS
    max_side: int = IMAGE_MAX_SIDE
    max_images: int = IMAGE_MAX_COUNT
    max_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_side", "max_images", "max_frames"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ConfigError(f"image limit {name} must be at least 1", param=name)
        if self.max_pixels > MAX_PIXELS_CEILING:
            raise ConfigError(
                f"image limit max_pixels can be at most {MAX_PIXELS_CEILING:,}", param="max_pixels"
            )


def check_bytes(count: int, limits: ImageLimits, param: str | None) -> None:
    """Raise ImageError if a file of ``count`` bytes is empty or too large."""
    if count == 0:
        raise ImageError("The picture is empty.", param=param)
    if count > limits.max_bytes:
        raise ImageError(
            f"The picture has about {count:,} bytes; the limit is {limits.max_bytes:,}.",
            param=param,
            code="image_too_large",
        )


def check_size(width: int, height: int, limits: ImageLimits, param: str | None) -> None:
    """Raise ImageError if a picture of ``width`` x ``height`` pixels is empty or too large."""
    if width < 1 or height < 1:
        raise ImageError(f"The picture has no pixels ({width}x{height}).", param=param)
    if max(width, height) > limits.max_side:
        what = f"the limit of a side is {limits.max_side:,} pixels"
    elif width * height > limits.max_pixels:
        what = f"the limit is {limits.max_pixels:,} pixels"
    else:
        return
    raise ImageError(
        f"The picture is {width}x{height} pixels; {what}.", param=param, code="image_too_large"
    )


def check_count(count: int, limits: ImageLimits, param: str | None) -> None:
    """Raise ImageError if a request carries ``count`` pictures and that is too many."""
    if count > limits.max_images:
        raise ImageError(
            f"The request has {count} pictures; the limit is {limits.max_images}.",
            param=param,
            code="too_many_images",
        )


def check_frames(image: Image.Image, limits: ImageLimits, param: str | None) -> None:
    """Raise ImageError if an opened animation has too many frames; they are not decoded for it."""
    if limits.max_frames is None:
        return
    frames = getattr(image, "n_frames", 1)
    if frames > limits.max_frames:
        raise ImageError(
            f"The animation has {frames} frames; the limit is {limits.max_frames}.",
            param=param,
            code="image_too_large",
        )


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
    return hashlib.sha256(_preparation(tower, options) + source).hexdigest()


@lru_cache(maxsize=64)
def _preparation(tower: VisionFacts, options: ImageOptions) -> bytes:
    """What decides about every picture's pixels and rows, beside its file."""
    how: tuple[object, ...]
    if tower.tiled:
        side = tower.tokens_per_image, tower.row_newlines
        how = ("tiles", tower.image_size, tower.pinpoints, *side, options.max_edge)
    elif tower.fixed:
        how = ("square", tower.image_size, mean_colour(tower.image_mean))
    else:
        how = ("any", options.max_edge, tower.patch_size, tower.most_pixels)
    return repr((_VERSION, how, options.background, options.low)).encode() + b"\0"
