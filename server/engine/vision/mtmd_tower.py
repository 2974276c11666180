"""The tower on libmtmd: a repaired file, and its rows put right.

From the rows of one square after another to the rows that the language model was trained on.

Source of the assembly: LLaVA-NeXT, ``prepare_inputs_labels_for_multimodal`` in
``llava/model/llava_arch.py`` with ``mm_patch_merge_type`` ``spatial_unpad``, and ``flat`` for files
without the newline's embedding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.mtmd import MROPE_SECTIONS, ImageSpan, Rows, Span, Vision
from server.errors import ImageError
from server.memory.measured.report import measured_parts, tower_backend
from server.messages import ImageInput, PromptPart, TileLayout, VisionFacts
from server.mmproj.cache import content_digest
from server.mmproj.faults import repair_rows
from server.mmproj.prepare import PreparedTower
from server.projectors import projector_of


def count(image: ImageInput, side: int, *, newlines: bool) -> ImageSpan:
    """What ``assemble`` will give for squares of ``side`` times ``side`` rows.

    The grid is that of the tiles where there are some, without padding, overview and newlines.
    """
    layout = image.layout
    if layout is None:
        pooled = -(-side // image.pool)
        return ImageSpan(pooled * pooled, pooled, pooled)
    n_tokens = layout.n_tokens(side, newlines=newlines)
    if newlines:
        return ImageSpan(n_tokens, layout.width, layout.height)
    return ImageSpan(n_tokens, layout.columns * side, layout.rows * side)


def assemble(squares: Sequence[Rows], image: ImageInput, newline: Rows | None) -> Rows:
    """The picture's rows, float32 [n_tokens, n_embd].

    ``squares`` are the overview's rows and those of each tile, [side * side, n_embd] each;
    ``newline`` is the embedding after each row of the grid, [n_embd].

    Raises ValueError where a square's rows are no square, or squares are missing.
    """
    if len(squares) != image.n_squares:
        raise ValueError(f"{len(squares)} squares encoded, {image.n_squares} needed")
    overview, tiles = squares[0], squares[1:]
    if image.layout is None:
        return pool(overview, image.pool)
    if newline is None:
        return np.concatenate(squares)
    grid = unpad(join(tiles, image.layout), image.layout)
    return np.concatenate([overview, end_rows(grid, newline)])


def join(tiles: Sequence[Rows], layout: TileLayout) -> Rows:
    """The tiles' rows as one grid, [rows * side, columns * side, n_embd]."""
    side = _side(tiles[0])
    squares = np.stack(tiles).reshape(layout.rows, layout.columns, side, side, -1)
    grid: Rows = squares.swapaxes(1, 2).reshape(layout.rows * side, layout.columns * side, -1)
    return grid


def unpad(grid: Rows, layout: TileLayout) -> Rows:
    """The part of a grid that the picture covers, [height, width, n_embd]."""
    top, left = layout.top, layout.left
    return grid[top : top + layout.height, left : left + layout.width]


def end_rows(grid: Rows, newline: Rows) -> Rows:
    """A grid [height, width, n_embd] in rows, ``newline`` [n_embd] after each of its lines."""
    height, _, n_embd = grid.shape
    ends = np.broadcast_to(newline, (height, 1, n_embd))
    return np.concatenate([grid, ends], axis=1).reshape(-1, n_embd)


def pool(rows: Rows, factor: int) -> Rows:
    """Means of ``factor`` times ``factor`` neighbours of a square grid, row by row.

    Where ``factor`` does not divide the side, the last ones are means of fewer.
    """
    if factor == 1:
        return rows
    side = _side(rows)
    starts = np.arange(0, side, factor)
    sizes = np.diff(starts, append=side)
    grid = rows.reshape(side, side, -1)
    sums = np.add.reduceat(np.add.reduceat(grid, starts, axis=0), starts, axis=1)
    means = sums / np.multiply.outer(sizes, sizes)[..., None]
    return means.reshape(len(starts) ** 2, -1).astype(np.float32)


def _side(rows: Rows) -> int:
    side = math.isqrt(len(rows))
    if side * side != len(rows):
        raise ValueError(f"{len(rows)} rows are no square")
    return side


logger = logging.getLogger(__name__)

# Edges of pictures that are counted to find the largest; web pictures are no larger in effect.
_PROBES = (64, 256, 448, 896, 1344, 2048, 4096, 8192)
# No tower wants less to choose from, whatever its tokens say: one that brings all pictures to one
# size has as many tokens for the smallest.
_LEAST_PIXELS = 2048**2


class MtmdTower:
    """Counts and encodes pictures; the rows it returns are those that LLaVA was trained on.

    ``newline`` is the embedding after each row of a tiled picture, float32 [n_embd]. ``whole``:
    the language model attends to a picture in both directions, so it is computed in one batch;
    ``n_sections`` is how many positions an embedding has. ``most_tokens``: those of the largest
    picture, where the tower takes any size. ``lines`` are libmtmd's log of loading it.
    """

    def __init__(
        self,
        vision: Vision,
        tower: PreparedTower,
        newline: NDArray[np.float32] | None = None,
        most_tokens: int = 0,
        lines: Sequence[str] = (),
    ) -> None:
        self._most_tokens = most_tokens
        self.lines = lines
        self.backend = tower_backend(lines)
        self._vision = vision
        self._tower = tower
        self._newline = newline
        self._side = math.isqrt(tower.n_patches)
        self._places = _places(tower)
        self.whole = vision.needs_whole_image
        self.n_sections = MROPE_SECTIONS if vision.uses_mrope else 1

    def close(self) -> None:
        """Frees tower and projector."""
        self._vision.close()

    @property
    def batch_tokens(self) -> int:
        """Most tokens that one run of the tower gives for several pictures; 0: one by one."""
        return self._vision.batch_tokens

    def encode_together(self, n_tokens: int) -> None:
        """Has pictures of equal size encoded together, up to so many tokens, if the tower can.

        One such run is done at once, so that its buffers are there before the first request.
        """
        edge = self._tower.image_size
        if n_tokens <= 0 or not self._vision.batches(edge, edge):
            return
        self._vision.batch_tokens = n_tokens
        blank = ImageInput("", edge, edge, bytes(edge * edge * 3), edge, edge)
        n_rows = max(1, _most_tokens(self._count([blank])))
        self.encode([blank] * max(1, n_tokens // n_rows))

    def _tokens_per_square(self) -> int:
        """Tokens of a picture of the tower's own size, which may be fewer than its patches."""
        edge = self._tower.image_size
        return _most_tokens(self._count([ImageInput("", edge, edge, b"", edge, edge)]))

    def largest_picture(self) -> int:
        """Tokens of the largest picture, or of its largest tile, found by asking libmtmd."""
        sizes = [(edge, edge) for edge in _PROBES] + [(edge, edge // 2) for edge in _PROBES]
        blanks = (ImageInput("", *size, b"", *size) for size in sizes)
        found = max(_most_tokens(self._count([blank])) for blank in blanks)
        # A picture of another shape may have more: 28 x 40 tokens where squares have 33 x 33.
        return max(found, self._most_tokens)

    def most_pixels(self) -> int:
        """Pixels beyond which libmtmd makes no more of a picture, found by asking it.

        It shrinks what is larger itself, keeping the aspect ratio; where that begins, its tokens
        stop growing. Where it cuts tiles, all of them together are pixels that it sees.
        """
        counts = []
        for edge in _PROBES:
            spans = self._vision.tokenize([ImageInput("", edge, edge, b"", edge, edge)])
            tiles = [span.n_tokens for span in spans if isinstance(span, ImageSpan)]
            counts.append((sum(tiles), len(tiles)))
        largest = counts[-1]
        grows = [edge for edge, count in zip(_PROBES, counts, strict=True) if count != largest]
        edge = next(edge for edge in _PROBES if not grows or edge > max(grows))
        return max(edge**2, largest[1] * self._tower.image_size**2, _LEAST_PIXELS)

    def tokenize(self, parts: Sequence[PromptPart]) -> list[Span]:
        """The prompt as runs of token ids and picture spans; nothing is encoded.

        Raises:
            ImageError: the tower cannot take one of the pictures; names its field.
        """
        spans = self._count(parts)
        self._check_places(spans, parts)
        return spans

    def _count(self, parts: Sequence[PromptPart]) -> list[Span]:
        spans = self._vision.tokenize(parts)
        if not self._tower.by_squares:
            return spans
        # libmtmd knows of each picture the first square only, and calls that one row high.
        images = (part for part in parts if isinstance(part, ImageInput))
        newlines = self._newline is not None
        return [
            replace(count(next(images), self._side, newlines=newlines), picture=span.picture)
            if isinstance(span, ImageSpan)
            else span
            for span in spans
        ]

    def _check_places(self, spans: Sequence[Span], parts: Sequence[PromptPart]) -> None:
        """Refuses what ggml would abort on: a patch beyond the table of positions."""
        most = self._places
        images = [part for part in parts if isinstance(part, ImageInput)] if most else []
        for span in spans if images else ():
            if not isinstance(span, ImageSpan):
                continue
            image = images[span.picture]
            columns, rows = _sides(span.n_tokens, image)
            if max(columns, rows) > most:
                raise ImageError(
                    f"a picture of {image.source_width} x {image.source_height} pixels takes"
                    f" {columns} x {rows} tokens, and this tower knows places for {most} along a"
                    " side; send one of another shape",
                    param=image.param,
                )

    def encode(self, images: Sequence[ImageInput]) -> list[Rows]:
        """Of each, float32 [n_tokens, n_embd], repaired where this libmtmd computes them wrongly.

        Raises:
            ImageError: libmtmd cannot take one of the pictures; names its field.
            RuntimeError: libmtmd failed on a picture.
        """
        if not self._tower.by_squares:
            return self._vision.encode(images)
        squares = [[image, *(replace(image, rgb=tile) for tile in image.tiles)] for image in images]
        rows = iter(self._vision.encode([square for each in squares for square in each]))
        return [
            assemble([self._repaired(next(rows)) for _ in each], each[0], self._newline)
            for each in squares
        ]

    def _repaired(self, rows: Rows) -> Rows:
        return repair_rows(rows, self._tower.n_patches) if self._tower.repair else rows

    def identity(self, cache_dir: Path) -> list[object]:
        """All that decides about a picture's rows, beside libmtmd itself."""
        tower = self._tower
        newline = None if self._newline is None else self._newline.tolist()
        return [content_digest(cache_dir, tower.path), tower.repair, newline]

    def memory(self) -> dict[tuple[str, str], int]:
        """Bytes by part and device.

        libmtmd logs what one small picture takes, and nothing when a larger one takes more.
        """
        parts = measured_parts(self.lines)
        if projector_of(self._tower.facts.projector_type).any_size or self.batch_tokens:
            parts.pop(("vision_compute", self.backend), None)
        return parts

    def facts(self) -> VisionFacts:
        """What was loaded, what was found wrong with it and what was undone."""
        facts, tower = self._tower.facts, self._tower
        return VisionFacts(
            projector=facts.projector_type,
            fixed=tower.by_squares,
            image_size=tower.image_size,
            native_image_size=facts.image_size,
            patch_size=facts.patch_size,
            tokens_per_image=self._tokens_per_square(),
            image_mean=facts.image_mean,
            has_class_token=facts.has_class_token,
            faults=tower.faults,
            undone=tower.undone,
            backend=self.backend,
            n_params=facts.n_params,
            size=facts.n_bytes,
            pinpoints=tower.pinpoints,
            row_newlines=self._newline is not None,
            non_causal=self.whole,
            mrope=self.n_sections > 1,
            largest_picture=self.largest_picture() if self.whole else 0,
            batch_tokens=self.batch_tokens,
            most_pixels=0 if tower.by_squares else self.most_pixels(),
        )


def _places(tower: PreparedTower) -> int:
    """Places that the tower knows for tokens along a side; 0 where it knows any number."""
    # gemma4uv's patches are as large as its tokens (clip.cpp).
    name = tower.facts.projector_type
    return tower.facts.places // (1 if name == "gemma4uv" else projector_of(name).merge)


def _most_tokens(spans: Sequence[Span]) -> int:
    return max(span.n_tokens for span in spans if isinstance(span, ImageSpan))


def _sides(n_tokens: int, image: ImageInput) -> tuple[int, int]:
    """Columns and rows of a picture's tokens, where libmtmd gives their product alone.

    It keeps the picture's shape as far as whole tokens allow.
    """
    shape = math.log(image.width / image.height)
    sides = [(n_tokens // rows, rows) for rows in range(1, n_tokens + 1) if n_tokens % rows == 0]
    return min(sides, key=lambda side: abs(math.log(side[0] / side[1]) - shape))
