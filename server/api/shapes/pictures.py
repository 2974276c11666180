"""What became of a picture, and what it would cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from server.api.shapes.base import shape

Pixels = Annotated[int, Field(ge=0)]


@shape
class Size(TypedDict):
    """Pixels; of a grid, tokens."""

    width: Pixels
    height: Pixels


@shape
class PictureReport(TypedDict):
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


@shape
class Resolution(TypedDict):
    """What another setting of --image-size would cost."""

    image_size: int
    squares: int
    tokens: int


@shape
class Inspection(TypedDict):
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
