"""Headers of models' shapes without the models: files with a hole where the weights would be."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from scripts.synthetic.files import write_llm, write_mmproj
from scripts.synthetic.shapes import PRESETS, LlmShape
from scripts.synthetic.weights import QUANTS
from server.gguf.model_header import ModelHeader, TowerHeader, read_model_header, read_tower_header


@cache
def model_of(shape: str, quant: str = "q4_0") -> ModelHeader:
    """The header of a language model of a preset's shape."""
    return header_of(PRESETS[shape].llm, quant)


@cache
def header_of(shape: LlmShape, quant: str) -> ModelHeader:
    """The header of a language model of this shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_llm(path, "model", shape, QUANTS[quant], 0, empty=True)
        return read_model_header(path)


@cache
def tower_of(shape: str, quant: str = "f16") -> TowerHeader:
    """The header of a mmproj of a preset's shape."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mmproj.gguf"
        write_mmproj(path, "tower", PRESETS[shape], QUANTS[quant], 0, empty=True)
        return read_tower_header(path)
