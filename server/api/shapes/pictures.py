"""What became of a picture, and what it would cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.shapes.base import Answer

Pixels = Annotated[int, Field(ge=0)]


class Size(Answer):
    """Pixels; of a grid, tokens."""

    width: Pixels
    height: Pixels


class PictureReport(Answer):
    """What became of one picture of a request."""

    source: Size
    resized: Size
    encoded: Size
    tiles: int
    grid: Size
    tokens: int
    detail: Literal["high", "low"]
    cached: bool
    decode_ms: float
    encode_ms: float


class Resolution(Answer):
    """What another setting of --image-size would cost."""

    image_size: int
    squares: int
    tokens: int


class Inspection(Answer):
    """What a picture is and becomes."""

    object: Literal["image.inspection"]
    format: str
    bytes: int
    stored: Size
    source: Size
    encoded: Size
    tokens: int
    image_size: int | None
    resolutions: list[Resolution]
