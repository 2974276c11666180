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
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.engine.llama.mtmd import Vision
from server.messages import ImageInput

Clock = Callable[[], float]

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
        clock = time.process_time if options.processor_time else time.perf_counter
        _measure(vision, pictures, options.sizes, options.rounds, clock)
        vision.close()
        model.close()
    return 0


def _measure(
    vision: Vision, pictures: list[ImageInput], sizes: list[int], rounds: int, clock: Clock
) -> None:
    def seconds(count: int, together: int) -> float:
        vision.batch_tokens = together
        start = clock()
        vision.encode(pictures[:count])
        return (clock() - start) / count

    print("| pictures | one by one, ms each | together, ms each | the first waits, ms |")
    print("|---:|---:|---:|---:|")
    for size in sizes:
        times = [(seconds(size, 0), seconds(size, 1 << 20)) for _ in range(rounds)]
        single, batched = (statistics.median(each) * 1000 for each in zip(*times, strict=True))
        waits = f"{single:.0f} or {batched * size:.0f}"
        print(f"| {size} | {single:.0f} | {batched:.0f} | {waits} |", flush=True)


def _noise(seed: int) -> ImageInput:
    rgb = np.random.default_rng(seed).integers(0, 256, (_EDGE, _EDGE, 3), np.uint8).tobytes()
    return ImageInput(str(seed), _EDGE, _EDGE, rgb, _EDGE, _EDGE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="measure_batches", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--offload", action="store_true", help="run the tower on the GPU")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
