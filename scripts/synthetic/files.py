"""Writing the two GGUF files of a synthetic LLaVA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape
from numpy.typing import NDArray

from scripts.synthetic.shapes import LlmShape, ModelShape
from scripts.synthetic.vocabulary import add_vocabulary
from scripts.synthetic.weights import WeightPool
from server.mmproj.layout import CLASS_TOKEN, NEWLINES, PATCHES, POSITIONS, tensor_shapes
from server.mmproj.reference import write_metadata

Shapes = Mapping[str, tuple[int, ...]]
# The type of a matrix, by its name; None: that of all others.
Mix = Callable[[str], GGMLQuantizationType | None]
_PEG = "mm.model.peg.0.weight"
_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16


def write_pair(
    folder: Path,
    name: str,
    shape: ModelShape,
    *,
    quant: GGMLQuantizationType = GGMLQuantizationType.F16,
    tower_quant: GGMLQuantizationType = GGMLQuantizationType.F16,
    seed: int = 0,
    empty: bool = False,
) -> tuple[Path, Path]:
    """Writes ``name.gguf`` and ``mmproj-name.gguf`` into ``folder``; returns both paths.

    ``empty`` files have the size of full ones and zeros for weights, which take no room on the
    disk: enough for all that is a matter of sizes.
    """
    llm, tower = folder / f"{name}.gguf", folder / f"mmproj-{name}.gguf"
    write_llm(llm, name, shape.llm, quant, seed, empty=empty)
    write_mmproj(tower, name, shape, tower_quant, seed + 1, empty=empty)
    return llm, tower


def q4_k_m(layers: int) -> Mix:
    """The mix of types that llama.cpp calls Q4_K_M: value and down matrices of half the layers
    in 6 bits, and the output; all others in Q4_K (llama_tensor_get_type_impl in llama-quant.cpp,
    with its use_more_bits). Its exceptions for Falcon, for mixtures of 8 experts and for 70B models
    are not here.
    """
    more = {n for n in range(layers) if n < layers // 8 or n >= 7 * layers // 8}
    more |= {n for n in range(layers) if (n - layers // 8) % 3 == 2}

    def choose(name: str) -> GGMLQuantizationType | None:
        if name == "output.weight":
            return GGMLQuantizationType.Q6_K
        _, _, rest = name.partition("blk.")
        layer, _, part = rest.partition(".")
        wide = part.startswith(("attn_v.", "ffn_down.")) and int(layer) in more
        return GGMLQuantizationType.Q6_K if wide else None

    return choose


def llm_writer(path: Path | None, name: str, shape: LlmShape) -> GGUFWriter:
    """A writer with the metadata of such a model, all but its vocabulary."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)
    return writer


def write_llm(
    path: Path,
    name: str,
    shape: LlmShape,
    quant: GGMLQuantizationType,
    seed: int,
    *,
    empty: bool = False,
    mix: Mix | None = None,
) -> None:
    """Writes a language model that llama.cpp loads and serves, and that talks nonsense."""
    writer = llm_writer(path, name, shape)
    add_vocabulary(writer, shape.vocabulary)
    _write_tensors(writer, llm_tensors(shape), WeightPool(quant, seed), empty=empty, mix=mix)


def write_mmproj(
    path: Path,
    name: str,
    shape: ModelShape,
    quant: GGMLQuantizationType,
    seed: int,
    *,
    empty: bool = False,
) -> None:
    """Writes a vision tower with its projector, laid out as published LLaVA files are."""
    writer = GGUFWriter(path, "clip")
    writer.add_name(f"{name} tower")
    write_metadata(writer, shape.tower)
    shapes = tensor_shapes(shape.tower)
    if shape.pools:
        writer.kv_data[0]["clip.projector_type"].value = "ldpv2"
        shapes = _with_pooling(shapes, shape.tower.n_out)
    if shape.tower.pinpoints:
        shapes = {**shapes, NEWLINES[0]: (shape.tower.n_out,)}
    _write_tensors(writer, shapes, WeightPool(quant, seed), empty=empty)


def llm_tensors(shape: LlmShape) -> dict[str, tuple[int, ...]]:
    d, ff = shape.width, shape.feed_forward
    kv = d // shape.heads * shape.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocabulary, d)}
    for layer in range(shape.layers):
        block = {
            "attn_norm": (d,),
            "attn_q": (d, d),
            "attn_k": (kv, d),
            "attn_v": (kv, d),
            "attn_output": (d, d),
            "ffn_norm": (d,),
            "ffn_gate": (ff, d),
            "ffn_up": (ff, d),
            "ffn_down": (d, ff),
        }
        shapes |= {f"blk.{layer}.{name}.weight": size for name, size in block.items()}
    return shapes | {"output_norm.weight": (d,), "output.weight": (shape.vocabulary, d)}


def _with_pooling(shapes: Shapes, n_out: int) -> dict[str, tuple[int, ...]]:
    """MobileVLM-V2's projector in the place of LLaVA's."""
    renamed = {
        name.replace("mm.0", "mm.model.mlp.0").replace("mm.2", "mm.model.mlp.2"): size
        for name, size in shapes.items()
    }
    return renamed | {_PEG: (n_out, 1, 3, 3), "mm.model.peg.0.bias": (n_out,)}


def _write_tensors(
    writer: GGUFWriter, shapes: Shapes, pool: WeightPool, *, empty: bool, mix: Mix | None = None
) -> None:
    kinds = {name: _kind(name, shape, pool, mix) for name, shape in shapes.items()}
    pools = {kind: WeightPool(kind, 0) for kind in kinds.values()} | {pool.kind: pool}
    for name, shape in shapes.items():
        kind = kinds[name]
        dtype = {_F32: np.float32, _F16: np.float16}.get(kind, np.uint8)
        stored = quant_shape_to_byte_shape(shape, kind) if dtype is np.uint8 else shape
        size = pools[kind].n_bytes(shape)
        writer.add_tensor_info(name, stored, np.dtype(dtype), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if empty:
        _leave_empty(writer)
        return
    draw = np.random.default_rng(len(shapes))
    for name, shape in shapes.items():
        plain = is_plain(name, shape)
        data = _plain(name, shape, draw) if plain else pools[kinds[name]].matrix(shape, 1.0)
        writer.write_tensor_data(data)
    writer.close()


def _leave_empty(writer: GGUFWriter) -> None:
    """Closes the file at its full size, a hole where the weights would be."""
    files = writer.fout or []
    for file, tensors in zip(files, writer.tensors, strict=True):
        sizes = [writer.ggml_pad(info.nbytes, writer.data_alignment) for info in tensors.values()]
        start = writer.ggml_pad(file.tell(), writer.data_alignment)
        file.truncate(start + sum(sizes))
    writer.close()


def _kind(
    name: str, shape: tuple[int, ...], pool: WeightPool, mix: Mix | None
) -> GGMLQuantizationType:
    if is_plain(name, shape):
        return _F32
    if mix is not None and (kind := mix(name)) is not None:
        return kind
    # llama.cpp takes convolutions in 16 bits only, and short rows fill no block.
    return pool.kind if pool.fits(shape[-1]) and name not in {PATCHES, _PEG} else _F16


def is_plain(name: str, shape: tuple[int, ...]) -> bool:
    """Whether converters keep it in 32 bits: norms, biases, class token, positions."""
    return len(shape) == 1 or name == POSITIONS


def _plain(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> NDArray[np.float32]:
    values = draw.standard_normal(shape, np.float32)
    if name not in {CLASS_TOKEN, POSITIONS}:
        values = values / np.float32(50) + np.float32(name.endswith(".weight"))
    return values
