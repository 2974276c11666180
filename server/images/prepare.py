"""A file's bytes to what the engine encodes: decoding and resizing joined. Runs in a thread."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from server.errors import ImageError
from server.images.decode import DecodedImage, decode
from server.images.limits import ImageLimits
from server.images.resize import at_least, cap_edge, mean_colour, to_square
from server.messages import ImageInput, VisionFacts

# Part of every digest: raise it whenever the same file would give other pixels.
_VERSION: Final = 1
# Qwen2-VL's reference refuses more (smart_resize in its processor); others have no rule of their
# own, and a grid that is 200 times as long as high tells them nothing.
_MAX_ASPECT: Final = 200


@dataclass(slots=True, frozen=True)
class ImageOptions:
    """The operator's choices. ``max_edge`` caps the longest edge in pixels for towers that take
    any size (a fixed tower has its own size); ``background`` shows through transparency.
    """

    limits: ImageLimits = field(default_factory=ImageLimits)
    max_edge: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)


def prepare(
    data: bytes, tower: VisionFacts, options: ImageOptions, param: str | None
) -> ImageInput:
    """Decode a file and bring it to the size that ``tower`` is to see.

    Fixed towers get ``image_size`` squared pixels as LLaVA-1.5 makes them; other towers get the
    upright picture, capped, with each edge at least one patch, for libmtmd to prepare.

    Raises ImageError with ``param``: not a whole, permitted picture, or too narrow for the tower.
    """
    target = tower.image_size if tower.fixed else options.max_edge
    decoded = decode(
        data, options.limits, background=options.background, target=target, param=param
    )
    if tower.fixed:
        image = to_square(
            decoded.rgb,
            tower.image_size,
            tower.image_mean,
            shrink=decoded.shrink,
            box=decoded.box,
        )
    else:
        image = _any_size(decoded, tower, options, param)
    return ImageInput(
        digest=_digest(data, tower, options),
        width=image.width,
        height=image.height,
        rgb=image.tobytes(),
        source_width=decoded.source_width,
        source_height=decoded.source_height,
    )


def _any_size(
    decoded: DecodedImage, tower: VisionFacts, options: ImageOptions, param: str | None
) -> Image.Image:
    width, height = decoded.source_width, decoded.source_height
    cap = options.max_edge or options.limits.max_side
    if max(width, height) <= _MAX_ASPECT * min(width, height):
        fitted = at_least(cap_edge(decoded.rgb, cap, box=decoded.box), tower.patch_size)
        if max(fitted.size) <= cap:
            return fitted
    raise ImageError(
        f"The picture is too narrow for the vision tower ({width}x{height}).", param=param
    )


def _digest(data: bytes, tower: VisionFacts, options: ImageOptions) -> str:
    """Everything that the pixels depend on, so that no cache can mistake one for another."""
    how: tuple[object, ...]
    if tower.fixed:
        how = ("square", tower.image_size, mean_colour(tower.image_mean))
    else:
        how = ("any", options.max_edge, tower.patch_size)
    key = repr((_VERSION, how, options.background)).encode()
    return hashlib.sha256(key + b"\0" + data).hexdigest()
