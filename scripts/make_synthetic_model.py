"""Writes a random-weight LLaVA, language model and mmproj, of the shape of a real one.

    python -m scripts.make_synthetic_model llava-1.5-7b --quant q4_k --out /tmp/models
    python -m scripts.make_synthetic_model llava-1.5-7b --layers 2 --tower-layers 3
    python -m scripts.make_synthetic_model clip-vit-b-16-224 --width 576   # an mmproj alone
    python -m scripts.make_synthetic_model kind-qwen2vl                    # tiny, of another kind

For timing and memory: the models are as large and as slow as those they are named after, and say
nothing sensible.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from scripts.synthetic.files import write_mmproj, write_pair
from scripts.synthetic.shapes import PRESETS, ModelShape, clip_b
from scripts.synthetic.tiny import TINY, write_tiny
from scripts.synthetic.weights import QUANTS

_TOWER_ONLY = "clip-vit-b-16-224"
_KIND = "kind-"


def main(arguments: list[str] | None = None) -> int:
    """Writes the files and prints their paths and sizes."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    tower_quant = QUANTS[options.tower_quant]
    if options.shape.startswith(_KIND):
        kind = options.shape.removeprefix(_KIND)
        paths: tuple[Path, ...] = write_tiny(options.out, kind, options.seed)
    elif options.shape == _TOWER_ONLY:
        shape = ModelShape(PRESETS["tiny"].llm, clip_b(options.width))
        shape = shape.with_layers(None, options.tower_layers)
        path = options.out / f"mmproj-{_TOWER_ONLY}-{options.width}.gguf"
        write_mmproj(path, _TOWER_ONLY, shape, tower_quant, options.seed)
        paths = (path,)
    else:
        shape = PRESETS[options.shape].with_layers(options.layers, options.tower_layers)
        paths = write_pair(
            options.out,
            options.name or f"{options.shape}-{options.quant}",
            shape,
            quant=QUANTS[options.quant],
            tower_quant=tower_quant,
            seed=options.seed,
        )
    for path in paths:
        print(f"{path.stat().st_size / 2**20:10.1f} MiB  {path}")
    print(f"{time.perf_counter() - start:10.1f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make_synthetic_model", description=(__doc__ or "").split("\n", 1)[0]
    )
    kinds = [_KIND + kind for kind in TINY]
    parser.add_argument("shape", choices=[*PRESETS, _TOWER_ONLY, *kinds])
    parser.add_argument("--out", type=Path, default=Path("synthetic"), help="folder to write to")
    parser.add_argument("--name", help="of the files; made of shape and quantization otherwise")
    parser.add_argument("--quant", choices=QUANTS, default="q4_0", help="language model's weights")
    parser.add_argument("--tower-quant", choices=QUANTS, default="f16", help="tower's weights")
    parser.add_argument("--layers", type=int, help="of the language model, fewer than it has")
    parser.add_argument("--tower-layers", type=int, help="of the tower, fewer than it has")
    parser.add_argument("--width", type=int, default=576, help="language model's, for a lone tower")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
