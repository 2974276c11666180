"""Measures whether encoding pictures together is faster than one after the other.

    python -m scripts.measure_batches --threads 2

A random tower of InternVL's kind, as large as CLIP ViT-B/16 at 224 px (196 patches, 12 layers): the
graph of LLaVA's own towers takes one picture at a time (tools/mtmd/models/llava.cpp).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scripts.synthetic.languages import Language
from scripts.synthetic.shapes import LlmShape
from scripts.synthetic.tiny import TinyKind, write_pair_of
from scripts.synthetic.vision_towers import VisionTower
from server.engine.bindings.log import LlamaLog
from server.engine.bindings.model import Model
from server.engine.bindings.vision import Vision
from server.messages import ImageInput

_EDGE = 224
_TOWER = VisionTower(
    *("internvl", _EDGE, _EDGE // 16, {"projector.scale_factor": 2, "preproc_max_tiles": 1}),
    patch_size=16,
    width=768,
    heads=12,
    feed_forward=3072,
    layers=12,
)
_PAIR = TinyKind(Language("llama", LlmShape(576, 1, 9, 3, 64, 512, 512)), _TOWER)


def main(arguments: list[str] | None = None) -> int:
    """Prints milliseconds a picture for each batch, alternating, medians of ``--rounds``."""
    options = _parser().parse_args(arguments)
    log = LlamaLog()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pair_of(Path(folder), "vit-b", _PAIR)
        model = Model(paths[0], 99 if options.offload else 0)
        threads, offload = options.threads, options.offload
        vision = Vision(paths[1], model, threads=threads, offload=offload, warmup=True)
        log.stop_keeping()
        pictures = [_noise(seed) for seed in range(max(options.sizes))]
        _measure(vision, pictures, options.sizes, options.rounds)
        vision.close()
        model.close()
    return 0


def _measure(vision: Vision, pictures: list[ImageInput], sizes: list[int], rounds: int) -> None:
    print("| pictures | one by one, ms each | together, ms each | the first waits, ms |")
    print("|---:|---:|---:|---:|")
    for size in sizes:
        apart, joint = [], []
        for _ in range(rounds):
            vision.batch_tokens = 0
            apart.append(_seconds(lambda: vision.encode(pictures[:size])) / size)  # noqa: B023
            vision.batch_tokens = 1 << 20
            joint.append(_seconds(lambda: vision.encode(pictures[:size])) / size)  # noqa: B023
        single, batched = (statistics.median(times) * 1000 for times in (apart, joint))
        waits = f"{single:.0f} or {batched * size:.0f}"
        print(f"| {size} | {single:.0f} | {batched:.0f} | {waits} |", flush=True)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _noise(seed: int) -> ImageInput:
    rgb = np.random.default_rng(seed).integers(0, 256, (_EDGE, _EDGE, 3), np.uint8).tobytes()
    return ImageInput(str(seed), _EDGE, _EDGE, rgb, _EDGE, _EDGE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="measure_batches", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--offload", action="store_true", help="run the tower on the GPU")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=7)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
