"""The dense labels: what each patch shows, as one vector that the tower learns to produce.

Every label has a fixed direction in the language model's embedding space. A patch's code is the
sum of the directions of all that it shows, each weighted by how much of the patch it fills.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scripts.demo.draw import SLOTS
from scripts.demo.palette import COLOUR_NAMES
from scripts.demo.pool import Shard
from scripts.demo.scene import CHARACTERS, MAX_TEXT, MAX_THINGS, PATTERNS, SHAPES, Scene

Floats = NDArray[np.float32]

SIZES = {
    "shape": len(SHAPES),
    "colour": len(COLOUR_NAMES),
    "character": len(CHARACTERS),
    "character_index": MAX_TEXT,
    "thing_index": MAX_THINGS,
    "background": len(COLOUR_NAMES),
    "pattern": len(PATTERNS),
    "flags": 4,  # padding, on a thing, on a character, drawn by hand
    "patch_x": 4,
    "patch_y": 4,
    "centre_x": 8,
    "centre_y": 8,
    "size": 5,
}
DISCRETE = (
    "shape",
    "colour",
    "character",
    "character_index",
    "thing_index",
    "background",
    "pattern",
)
SPANS: dict[str, slice] = {}
LABELS = 0
for _name, _size in SIZES.items():
    SPANS[_name] = slice(LABELS, LABELS + _size)
    LABELS += _size

CODE_NORM = 3.0  # length of one label's direction; token embeddings are about 7 long
EDGE_BOOST = 1.6  # a thing counts fully on a patch from 1/1.6 of its area on


def codebook(width: int) -> Floats:
    """Orthogonal directions of all labels, (LABELS, width); the same on every run."""
    noise = np.random.default_rng(20240229).standard_normal((width, LABELS))
    directions, _ = np.linalg.qr(noise)
    book: Floats = (directions.T * CODE_NORM).astype(np.float32)
    return book


def bumps(value: float, count: int) -> Floats:
    """A number from 0 to 1 as smooth weights on `count` points that sum to one."""
    points = np.linspace(0, 1, count)
    weights = np.exp(-(((value - points) * (count - 1)) ** 2))
    shares: Floats = (weights / weights.sum()).astype(np.float32)
    return shares


def _mark(row: Floats, group: str, index: int) -> None:
    row[SPANS[group].start + index] = 1


def slot_labels(scene: Scene) -> Floats:
    """The labels of each thing (rows 0-3) and each character (rows 4-8), (SLOTS, LABELS)."""
    rows = np.zeros((SLOTS, LABELS), np.float32)
    for index, thing in enumerate(scene.things):
        row = rows[index]
        _mark(row, "shape", SHAPES.index(thing.shape))
        _mark(row, "colour", COLOUR_NAMES.index(thing.colour))
        _mark(row, "thing_index", index)
        _mark(row, "flags", 1)
        _place(row, thing.x, thing.y, thing.size)
    if scene.text is not None:
        for index, letter in enumerate(scene.text.string):
            row = rows[MAX_THINGS + index]
            _mark(row, "character", CHARACTERS.index(letter))
            _mark(row, "colour", COLOUR_NAMES.index(scene.text.colour))
            _mark(row, "character_index", index)
            _mark(row, "flags", 2)
            if scene.text.drawn:
                _mark(row, "flags", 3)
            _place(row, scene.text.x, scene.text.y, scene.text.height)
    return rows


def _place(row: Floats, x: float, y: float, size: float) -> None:
    row[SPANS["centre_x"]] = bumps(x, SIZES["centre_x"])
    row[SPANS["centre_y"]] = bumps(y, SIZES["centre_y"])
    row[SPANS["size"]] = bumps(size / 0.7, SIZES["size"])


def background_labels(scene: Scene) -> Floats:
    """The labels of a patch that shows nothing but background, (LABELS,)."""
    row = np.zeros(LABELS, np.float32)
    _mark(row, "background", COLOUR_NAMES.index(scene.background.colour))
    _mark(row, "pattern", PATTERNS.index(scene.background.pattern))
    return row


def own_place(grid: int) -> Floats:
    """Each patch's own place in the padded square, (grid * grid, LABELS)."""
    rows = np.zeros((grid, grid, LABELS), np.float32)
    for index in range(grid):
        middle = (index + 0.5) / grid
        rows[index, :, SPANS["patch_y"]] = bumps(middle, SIZES["patch_y"])
        rows[:, index, SPANS["patch_x"]] = bumps(middle, SIZES["patch_x"])
    return rows.reshape(grid * grid, LABELS)


def patch_labels(shard: Shard, chosen: NDArray[np.intp]) -> Floats:
    """The labels of every patch of the chosen pictures, (n, grid * grid, LABELS)."""
    count, grid = len(chosen), shard.cover.shape[-1]
    cover = shard.cover[chosen].reshape(count, SLOTS, -1).astype(np.float32) / 255
    pad = shard.pad[chosen].reshape(count, -1, 1)
    scenes = [shard.scenes[i] for i in chosen]
    slots = np.stack([slot_labels(scene) for scene in scenes])
    behind = np.stack([background_labels(scene) for scene in scenes])
    weights = np.minimum(1, cover * EDGE_BOOST).transpose(0, 2, 1)
    free = (1 - cover.sum(1)[..., None] - pad).clip(0)
    labels: Floats = weights @ slots + free * behind[:, None] + own_place(grid)
    labels[..., SPANS["flags"].start] = pad[..., 0]
    return labels
