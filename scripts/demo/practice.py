"""Practice sheets for the tower: many small shapes and characters in one picture.

A scene shows one or two characters; a sheet shows ten. Nobody asks questions about sheets: they
only teach the tower shapes, colours and characters, several times as fast as scenes do.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scripts.demo import fonts
from scripts.demo.codes import LABELS, SPANS, background_labels
from scripts.demo.compose import foreground, make_background
from scripts.demo.draw import Canvas, backdrop, preprocess, print_text, spoil, thing_mask
from scripts.demo.outlines import Point
from scripts.demo.palette import COLOUR_NAMES, TEXT_LIFT
from scripts.demo.scene import CHARACTERS, SHAPES, Background, Scene, Text, Thing

SIDE = 112
GRID = 8
TAUGHT = ("shape", "colour", "character", "background", "pattern")
CHARACTER_SHARE = 0.65
EDGE_BOOST = 1.6


class Sheet:
    """One practice picture and the labels of its patches, (64, LABELS)."""

    def __init__(self, seed: int, paths: tuple[str, ...]) -> None:
        self.rng, self.paths = Random(seed), paths
        behind = make_background(self.rng)
        scale = self.rng.choice((1.0, 1.5, 2.0))
        self.side = round(SIDE * scale)
        blur = self.rng.uniform(0.2, 0.8) if self.rng.random() < 0.2 else 0.0
        grain = self.rng.uniform(2, 8) if self.rng.random() < 0.15 else 0.0
        jpeg = self.rng.randint(40, 92) if self.rng.random() < 0.3 else 0
        self.scene = Scene(self.side, self.side, behind, (), None, blur, grain, jpeg, seed)
        self.picture = backdrop(self.scene, self.rng)
        self.labels = np.zeros((GRID * GRID, LABELS), np.float32)
        self.free = np.ones(GRID * GRID, np.float32)
        self._fill(behind)
        self.labels += self.free.clip(0)[:, None] * background_labels(self.scene)
        self.pixels = preprocess(spoil(self.picture, self.scene), SIDE)

    def _fill(self, behind: Background) -> None:
        cell = self.rng.uniform(0.23, 0.42)
        count = int(1 / cell)
        spare = 1 - count * cell
        left, top = self.rng.uniform(0, spare), self.rng.uniform(0, spare)
        for row in range(count):
            for column in range(count):
                if self.rng.random() < 0.06:
                    continue
                centre = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
                if self.rng.random() < CHARACTER_SHARE:
                    self._character(behind, centre, cell)
                else:
                    self._thing(behind, centre, cell)

    def _mark(self, mask: Canvas, marks: dict[str, int]) -> None:
        cover = np.asarray(mask.resize((GRID, GRID), Image.Resampling.BOX), np.float32) / 255
        weight = np.minimum(1, cover.reshape(-1) * EDGE_BOOST)
        self.free -= cover.reshape(-1)
        for group, index in marks.items():
            self.labels[:, SPANS[group].start + index] += weight

    def _character(self, behind: Background, centre: Point, cell: float) -> None:
        height = cell * self.rng.uniform(0.72, 0.98)
        drawn = self.rng.random() < 0.1
        letter = self.rng.choice(CHARACTERS[:10] if drawn else CHARACTERS)
        colour, rgb = foreground(self.rng, behind, lift=TEXT_LIFT)
        seed, font = self.rng.getrandbits(30), self.rng.choice(self.paths)
        text = Text(letter, colour, rgb, 0, 0, height, 0, drawn, seed)
        at = (centre[0] * self.side, centre[1] * self.side)
        print_text(text, self.picture, at, float(self.side), font)
        mask = Image.new("L", (SIDE, SIDE))
        wide, high = 0.36 * height * SIDE, 0.5 * height * SIDE
        x, y = centre[0] * SIDE, centre[1] * SIDE
        ImageDraw.Draw(mask).rectangle((x - wide, y - high, x + wide, y + high), fill=255)
        marks = {"character": CHARACTERS.index(letter), "colour": COLOUR_NAMES.index(colour)}
        self._mark(mask, marks)

    def _thing(self, behind: Background, centre: Point, cell: float) -> None:
        shape = self.rng.choice(SHAPES)
        colour, rgb = foreground(self.rng, behind)
        aspect = {"rectangle": self.rng.uniform(1.6, 2.3), "diamond": self.rng.uniform(0.62, 1)}
        angle = self.rng.choice((0.0, self.rng.uniform(-12, 12)))
        angle += self.rng.choice((0, 90)) if shape == "rectangle" else 0
        size = cell * self.rng.uniform(0.7, 0.92)
        thing = Thing(shape, colour, rgb, 0, 0, size, angle, aspect.get(shape, 1.0))
        at = (centre[0] * self.side, centre[1] * self.side)
        mask = thing_mask(thing, self.picture.size, at, float(self.side))
        self.picture.paste(rgb, (0, 0), mask)
        marks = {"shape": SHAPES.index(shape), "colour": COLOUR_NAMES.index(colour)}
        self._mark(mask, marks)


def write_sheets(folder: Path, shards: int, per_shard: int = 500, first: int = 0) -> None:
    """Draws shards of practice sheets: NAME.pixels.npy and NAME.labels.npy."""
    os.nice(10)
    folder.mkdir(parents=True, exist_ok=True)
    paths = fonts.training_fonts()
    for number in range(first, first + shards):
        seeds = range(3_000_000_000 + number * per_shard, 3_000_000_000 + (number + 1) * per_shard)
        sheets = [Sheet(seed, paths) for seed in seeds]
        labels = np.stack([sheet.labels for sheet in sheets]).astype(np.float16)
        np.save(folder / f"{number:05d}.labels.npy", labels)
        np.save(folder / f"{number:05d}.pixels.part.npy", np.stack([s.pixels for s in sheets]))
        (folder / f"{number:05d}.pixels.part.npy").rename(folder / f"{number:05d}.pixels.npy")


class Sheets:
    """The practice sheets drawn so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, Random(seed)

    def batch(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Some sheets of one shard: pixels and labels. Waits for the first shard."""
        while not (found := sorted(self.folder.glob("*.pixels.npy"))):
            time.sleep(1)
        path = self.rng.choice(found)
        pixels = np.load(path, mmap_mode="r")
        labels = np.load(str(path).replace("pixels", "labels"), mmap_mode="r")
        chosen = np.asarray(sorted(self.rng.sample(range(len(pixels)), count)))
        return np.asarray(pixels[chosen]), np.asarray(labels[chosen], np.float32)
