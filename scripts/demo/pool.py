"""A growing store of drawn pictures on disk, so that drawing never holds up training."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from scripts.demo import fonts
from scripts.demo.compose import Style, make_scene
from scripts.demo.draw import coverage, draw, padding, preprocess
from scripts.demo.scene import Scene

PATCH = 14
SHARD = 500
# How often a shard is drawn at each side (pixels); 112 is the model's own resolution.
SIDES = {112: 0.60, 84: 0.16, 56: 0.08, 140: 0.08, 168: 0.08}
HELD_OUT_SEED = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Pictures of one side: pixels (n, side, side, 3), cover (n, 9, g, g), pad (n, g, g)."""

    side: int
    pixels: NDArray[np.uint8]
    cover: NDArray[np.uint8]
    pad: NDArray[np.float32]
    scenes: list[Scene]


def draw_shard(
    side: int, first_seed: int, count: int, style: Style, paths: tuple[str, ...]
) -> Shard:
    """Draws `count` scenes with consecutive seeds."""
    grid = side // PATCH
    scenes = [make_scene(first_seed + i, style) for i in range(count)]
    pixels = np.stack([preprocess(draw(scene, paths), side) for scene in scenes])
    cover = np.stack([coverage(scene, grid, paths) for scene in scenes])
    pad = np.stack([padding(scene, grid) for scene in scenes])
    return Shard(side, pixels, cover, pad, scenes)


def save(shard: Shard, folder: Path) -> None:
    """Writes a shard whole or not at all."""
    unfinished = folder.with_suffix(".part")
    unfinished.mkdir(parents=True, exist_ok=True)
    np.save(unfinished / "pixels.npy", shard.pixels)
    np.save(unfinished / "cover.npy", shard.cover)
    np.save(unfinished / "pad.npy", shard.pad)
    (unfinished / "scenes.pickle").write_bytes(pickle.dumps(shard.scenes))
    unfinished.rename(folder)


def load(folder: Path) -> Shard:
    """Opens a shard that this script wrote; the pixels stay on disk until they are used."""
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    scenes = pickle.loads((folder / "scenes.pickle").read_bytes())  # noqa: S301 - our own file
    cover, pad = np.load(folder / "cover.npy"), np.load(folder / "pad.npy")
    return Shard(pixels.shape[1], pixels, cover, pad, scenes)


def fill(folder: Path, at_once: int, per_second: float, most: int) -> None:
    """Draws `at_once` pictures as fast as it can, then more at a gentle rate, up to `most`."""
    os.nice(10)
    paths = fonts.training_fonts()
    style = Style(fonts=len(paths))
    done = 0
    while done < most:
        began = time.monotonic()
        name = folder / f"{done:07d}"
        if not name.exists():
            side = Random(done).choices(list(SIDES), weights=list(SIDES.values()))[0]
            save(draw_shard(side, done, SHARD, style, paths), name)
        done += SHARD
        if done > at_once:
            time.sleep(max(0.0, SHARD / per_second - (time.monotonic() - began)))


def start_filling(folder: Path, at_once: int, per_second: float, most: int) -> BaseProcess:
    """Runs `fill` in a process of its own that ends with this one."""
    folder.mkdir(parents=True, exist_ok=True)
    process = get_context("spawn").Process(
        target=fill, args=(folder, at_once, per_second, most), daemon=True
    )
    process.start()
    return process


def new_shards(folder: Path, known: set[str]) -> Iterator[Shard]:
    """The shards that are complete and not yet known; marks them as known."""
    for path in sorted(folder.iterdir()):
        if path.suffix != ".part" and path.name not in known:
            known.add(path.name)
            yield load(path)


def held_out(side: int, count: int) -> Shard:
    """Pictures that no training run sees: other seeds, sizes and fonts."""
    paths = fonts.held_out_fonts()
    style = Style(sides=(100, 640), fonts=len(paths))
    return draw_shard(side, HELD_OUT_SEED, count, style, paths)
