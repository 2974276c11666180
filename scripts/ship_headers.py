"""Writes ``models/headers``: headers of the catalogue's models, without vocabularies and weights.

    python -m scripts.ship_headers

With them `llava-server plan llava-1.6-34b --device-memory 24GiB` answers offline. The shapes are
those that the models' authors published; they were not compared with the files on the Hub.
"""

from __future__ import annotations

import argparse
import gzip
import io
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape

from scripts.synthetic.files import is_plain, llm_tensors, llm_writer, q4_k_m
from scripts.synthetic.shapes import LlmShape
from server.mmproj.layout import NEWLINES, TowerShape, tensor_shapes
from server.mmproj.reference import write_metadata

FOLDER: Final = Path(__file__).parents[1] / "models" / "headers"
_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
_Q4_K = GGMLQuantizationType.Q4_K

_VICUNA_7B = LlmShape(4096, 32, 32, 32, 11008, 32000, 4096)
_VICUNA_13B = LlmShape(5120, 40, 40, 40, 13824, 32000, 4096)
_MISTRAL_7B = LlmShape(4096, 32, 32, 8, 14336, 32000, 32768, 1e6)
_YI_34B = LlmShape(7168, 60, 56, 8, 20480, 64000, 4096, 5e6)
_LLAMA_3_8B = LlmShape(4096, 32, 32, 8, 14336, 128256, 8192, 5e5)
_PHI_3_MINI = LlmShape(3072, 32, 32, 32, 8192, 32064, 4096)
# CLIP ViT-L/14-336 without the layer that LLaVA does not use.
_CLIP = TowerShape(336, 14, 1024, 16, 4096, 23, 4096, 4096)
_ANYRES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SHAPES: Final[Mapping[str, tuple[LlmShape, tuple[tuple[int, int], ...]]]] = {
    "llava-1.5-7b": (_VICUNA_7B, ()),
    "llava-1.5-13b": (_VICUNA_13B, ()),
    "llava-1.6-mistral-7b": (_MISTRAL_7B, _ANYRES),
    "llava-1.6-vicuna-7b": (_VICUNA_7B, _ANYRES),
    "llava-1.6-vicuna-13b": (_VICUNA_13B, _ANYRES),
    "llava-1.6-34b": (_YI_34B, _ANYRES),
    "bakllava-1": (replace(_MISTRAL_7B, rope_base=1e4), ()),
    "llava-llama-3-8b": (_LLAMA_3_8B, ()),
    "llava-phi-3-mini": (_PHI_3_MINI, ()),
}


def main() -> None:
    """Writes all of them."""
    parser = argparse.ArgumentParser(prog="ship_headers", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (llm, pinpoints) in SHAPES.items():
        tower = replace(_CLIP, hidden=llm.width, n_out=llm.width, pinpoints=pinpoints)
        _pack(folder / f"{name}.gguf.gz", _model(name, llm))
        _pack(folder / f"{name}-mmproj.gguf.gz", _tower(name, tower))


def _pack(path: Path, header: bytes) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as file:
        file.write(header)
    path.write_bytes(packed.getvalue())


def _model(name: str, shape: LlmShape) -> bytes:
    writer = llm_writer(None, name, shape)
    tensors, mix = llm_tensors(shape), q4_k_m(shape.layers)
    kinds = {
        tensor: _F32 if is_plain(tensor, size) else mix(tensor) or _Q4_K
        for tensor, size in tensors.items()
    }
    return _header(writer, tensors, kinds)


def _tower(name: str, shape: TowerShape) -> bytes:
    writer = GGUFWriter(None, "clip")
    writer.add_name(f"{name} tower")
    write_metadata(writer, shape)
    tensors = tensor_shapes(shape)
    if shape.pinpoints:
        tensors = {**tensors, NEWLINES[0]: (shape.n_out,)}
    kinds = {tensor: _F32 if is_plain(tensor, size) else _F16 for tensor, size in tensors.items()}
    return _header(writer, tensors, kinds)


def _header(
    writer: GGUFWriter,
    tensors: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, GGMLQuantizationType],
) -> bytes:
    for name, size in tensors.items():
        kind = kinds[name]
        dtype = {_F32: np.float32, _F16: np.float16}.get(kind, np.uint8)
        stored = quant_shape_to_byte_shape(size, kind) if dtype is np.uint8 else size
        count = int(np.prod(stored)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(name, stored, np.dtype(dtype), count, raw_dtype=kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path.read_bytes()


if __name__ == "__main__":
    main()
