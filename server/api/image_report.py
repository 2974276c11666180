"""ImageReport: what became of one picture and what it cost, for the log and the reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.messages import EncodedImage, ImageInput, PromptPart


@dataclass(slots=True, frozen=True)
class ImageReport:
    """``image`` as the web process prepared it, ``encoded`` as the engine saw it."""

    image: ImageInput
    encoded: EncodedImage

    @property
    def tiles(self) -> int:
        """How often the tower ran: for the squares that we cut, or for libmtmd's pieces."""
        return max(self.image.n_squares, self.encoded.tiles)

    @property
    def line(self) -> str:
        """The line of the log."""
        image, encoded = self.image, self.encoded
        what = (
            f"encoded image to {encoded.tokens} tokens"
            f" ({image.source_width}x{image.source_height}"
            f" -> {image.encoded_width}x{image.encoded_height},"
            f" {encoded.grid_width}x{encoded.grid_height} grid,"
            f" {self.tiles} tile{'s' if self.tiles > 1 else ''})"
        )
        if encoded.cached:
            return f"{what} before; taken from the cache"
        return f"{what} in {encoded.encode_seconds * 1000:.0f} ms"

    @property
    def json(self) -> dict[str, Any]:
        """The item of the reply's list ``images``; sizes in pixels, the grid's in tokens."""
        image, encoded = self.image, self.encoded
        return {
            "source": _size(image.source_width, image.source_height),
            "resized": _size(image.resized_width, image.resized_height),
            "encoded": _size(image.encoded_width, image.encoded_height),
            "tiles": self.tiles,
            "grid": _size(encoded.grid_width, encoded.grid_height),
            "tokens": encoded.tokens,
            "detail": image.detail,
            "cached": encoded.cached,
            "decode_ms": _milliseconds(image.decode_seconds),
            "encode_ms": _milliseconds(encoded.encode_seconds),
        }


def pictures_of(parts: Sequence[PromptPart]) -> tuple[ImageInput, ...]:
    """The pictures of a prompt in order, without their pixels, which need not be kept."""
    return tuple(replace(part, rgb=b"", tiles=()) for part in parts if isinstance(part, ImageInput))


def _size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
