"""Pictures on their way into the engine, and what became of them."""

from __future__ import annotations

import copyreg
from dataclasses import dataclass
from pickle import PickleBuffer

# A view is of memory that is shared with a decoder and can no longer change. It is pickled, from
# protocol 5 on, without a copy beside, and arrives as bytes.
Pixels = bytes | memoryview
copyreg.pickle(memoryview, lambda view: (bytes, (PickleBuffer(view),)))  # type: ignore[arg-type, return-value]


@dataclass(slots=True, frozen=True)
class TileLayout:
    """A picture cut into ``columns`` times ``rows`` squares, as LLaVA-1.6 sees large ones.

    The squares' tokens make one grid; ``left``, ``top``, ``width`` and ``height``, in tokens,
    are the part of it that the picture covers. The rest is padding.
    """

    columns: int
    rows: int
    left: int
    top: int
    width: int
    height: int

    def n_tokens(self, side: int, *, newlines: bool) -> int:
        """Tokens of overview and tiles together, each of ``side`` times ``side``.

        With ``newlines`` one more after each row of what the picture covers: 672 x 672 pixels in
        squares of 336 with 24 x 24 tokens give 576 + 48 * 48 + 48 = 2928. Without, all of every
        tile: 2880.
        """
        if newlines:
            return side**2 + self.height * (self.width + 1)
        return side**2 * (1 + self.columns * self.rows)


@dataclass(slots=True, frozen=True)
class ImageInput:
    """One picture, ready for the vision tower.

    ``rgb`` is ``height * width * 3`` bytes, row by row; ``digest`` is the SHA-256 of the
    original bytes and of the preprocessing, in hexadecimal. With a ``layout``, ``rgb`` is the
    overview and ``tiles`` are the squares of the same size, row by row. Every ``pool`` times
    ``pool`` tokens are averaged to one. ``detail`` is "high" or "low"; ``resized_width`` and
    ``resized_height`` are what the picture itself takes of the encoded pixels. ``param`` is the
    field of the request that holds it, which errors name.
    """

    digest: str
    width: int
    height: int
    rgb: Pixels
    source_width: int
    source_height: int
    tiles: tuple[Pixels, ...] = ()
    layout: TileLayout | None = None
    pool: int = 1
    detail: str = "high"
    resized_width: int = 0
    resized_height: int = 0
    decode_seconds: float = 0.0
    param: str = "messages"

    @property
    def encoded_width(self) -> int:
        """Pixels across that the tower sees, in tiles or at once; the overview not counted."""
        return self.width * (self.layout.columns if self.layout else 1)

    @property
    def encoded_height(self) -> int:
        """Pixels down that the tower sees."""
        return self.height * (self.layout.rows if self.layout else 1)

    @property
    def n_squares(self) -> int:
        """How often the tower runs: once, or for the overview and each tile."""
        return 1 + (self.layout.columns * self.layout.rows if self.layout else 0)


@dataclass(slots=True, frozen=True)
class EncodedImage:
    """What became of one picture; sizes in pixels, time in seconds.

    ``cached``: it had been encoded before, and ``encode_seconds`` is 0. ``encode_start`` is
    ``time.monotonic()`` when the encode began, 0 if there was none. ``tiles`` is how many pieces
    libmtmd made of it.
    """

    tokens: int
    grid_width: int
    grid_height: int
    width: int
    height: int
    source_width: int
    source_height: int
    encode_seconds: float
    cached: bool = False
    encode_start: float = 0.0
    tiles: int = 1
