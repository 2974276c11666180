"""Tiny pairs of every kind that libmtmd serves: written in a blink, and looked at in earnest.

Weights are random, but spread so that a picture tells in every token of the answer and that the
best token leads by more than rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from scripts.synthetic.languages import Language
from scripts.synthetic.shapes import LlmShape
from scripts.synthetic.vision_towers import VisionTower
from scripts.synthetic.vocabulary import END, add_vocabulary
from server.mmproj.layout import NEWLINES, TowerShape, tensor_shapes
from server.mmproj.reference import write_metadata

_LLM = LlmShape(64, 2, 4, 2, 128, 512, 4096)
_LLAMA = Language("llama", _LLM)
_GEMMA = Language("gemma3", LlmShape(64, 2, 4, 2, 128, 512, 4096))
_GEMMA_WINDOW = Language("gemma3", LlmShape(64, 6, 4, 2, 128, 512, 4096), window=96)
_CLIP = TowerShape(56, 14, 32, 2, 64, 3, 32, 64)
_CLIP_TILES = TowerShape(56, 14, 32, 2, 64, 3, 32, 64, pinpoints=((56, 112), (112, 56), (112, 112)))
_TABLES = ("_embd", "embd.weight", "query", "pos_embed_k", "img_break", "image_newline")


@dataclass(slots=True, frozen=True)
class TinyKind:
    """A language model and a tower that fit; ``words`` are the model's own around pictures."""

    language: Language
    tower: TowerShape | VisionTower
    words: tuple[str, ...] = ()


_QWEN_WORDS = ("<|vision_start|>", "<|vision_end|>")
_GEMMA_WORDS = ("<start_of_image>", "<end_of_image>")
_MINICPM_WORDS = ("<image>", "</image>", "<slice>", "</slice>")
_IDEFICS_WORDS = (
    *("\n\n", "<fake_token_around_image>", "<global-img>"),
    *(f"<row_{row}_col_{col}>" for row in range(1, 4) for col in range(1, 4)),
)
_QWEN3 = Language("qwen3vl", _LLM, deepstack=1)
_MERGE = {"spatial_merge_size": 2}

TINY: dict[str, TinyKind] = {
    "llava-1.5": TinyKind(_LLAMA, _CLIP),
    "llava-1.6": TinyKind(_LLAMA, _CLIP_TILES),
    "gemma3": TinyKind(
        _GEMMA, VisionTower("gemma3", 112, 8, {"projector.scale_factor": 2}), _GEMMA_WORDS
    ),
    "gemma3-window": TinyKind(
        _GEMMA_WINDOW, VisionTower("gemma3", 112, 8, {"projector.scale_factor": 2}), _GEMMA_WORDS
    ),
    "gemma4": TinyKind(
        _GEMMA,
        VisionTower("gemma4v", 224, 256, {"projector.scale_factor": 3}),
        ("<|image>", "<image|>"),
    ),
    "qwen2vl": TinyKind(
        Language("qwen2vl", _LLM), VisionTower("qwen2vl_merger", 112, 0, _MERGE), _QWEN_WORDS
    ),
    "qwen2.5vl": TinyKind(
        Language("qwen2vl", _LLM),
        VisionTower("qwen2.5vl_merger", 112, 0, {"n_wa_pattern": 2, **_MERGE}, silu=True),
        _QWEN_WORDS,
    ),
    "qwen3vl": TinyKind(_QWEN3, VisionTower("qwen3vl_merger", 112, 8, _MERGE), _QWEN_WORDS),
    "idefics3": TinyKind(
        _LLAMA,
        VisionTower("idefics3", 56, 4, {"projector.scale_factor": 2, "preproc_image_size": 112}),
        _IDEFICS_WORDS,
    ),
    "internvl": TinyKind(
        _LLAMA,
        VisionTower("internvl", 56, 4, {"projector.scale_factor": 2, "preproc_max_tiles": 6}),
        ("<img>", "</img>"),
    ),
    "pixtral": TinyKind(_LLAMA, VisionTower("pixtral", 224, silu=True), ("[IMG_END]",)),
    "minicpmv": TinyKind(
        Language("llama", LlmShape(128, 2, 4, 2, 128, 512, 4096)),
        VisionTower("resampler", 56, 70, {"minicpmv_version": 3, "minicpmv_query_num": 16}),
        _MINICPM_WORDS,
    ),
}


def write_tiny(folder: Path, kind: str, seed: int = 0) -> tuple[Path, Path]:
    """Writes ``kind.gguf`` and ``mmproj-kind.gguf``, all in 32 bits; returns both paths."""
    return write_pair_of(folder, kind, TINY[kind], seed)


def write_pair_of(folder: Path, name: str, pair: TinyKind, seed: int = 0) -> tuple[Path, Path]:
    """The same for a pair of any shape."""
    draw = np.random.default_rng(seed)
    model, mmproj = folder / f"{name}.gguf", folder / f"mmproj-{name}.gguf"
    _write_language(model, name, pair, draw)
    _write_tower(mmproj, name, pair, draw)
    return model, mmproj


def _write_language(path: Path, name: str, pair: TinyKind, draw: np.random.Generator) -> None:
    language, shape = pair.language, pair.language.shape
    writer = GGUFWriter(path, language.architecture)
    writer.add_name(f"tiny {name}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)
    for key, value in language.keys.items():
        _add(writer, f"{language.architecture}.{key}", value)
    add_vocabulary(writer, shape.vocabulary, pair.words)
    tensors = {name: _values(name, size, draw) for name, size in language.tensors.items()}
    tensors["output.weight"][END] = 0  # never the best, so that answers are as long as asked for
    _write(writer, tensors)


def _write_tower(path: Path, name: str, pair: TinyKind, draw: np.random.Generator) -> None:
    writer, tower, n_out = GGUFWriter(path, "clip"), pair.tower, pair.language.shape.width
    writer.add_name(f"tiny {name} tower")
    if isinstance(tower, TowerShape):
        write_metadata(writer, tower)
        shapes = tensor_shapes(tower)
        if tower.pinpoints:
            shapes = {**shapes, NEWLINES[0]: (tower.n_out,)}
    else:
        _write_keys(writer, tower, n_out)
        shapes = tower.tensors(n_out)
    _write(writer, {name: _values(name, size, draw) for name, size in shapes.items()})


def _write_keys(writer: GGUFWriter, tower: VisionTower, n_out: int) -> None:
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", tower.projector)
    writer.add_bool("clip.use_silu" if tower.silu else "clip.use_gelu", True)
    keys: dict[str, int] = {
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "embedding_length": tower.width,
        "feed_forward_length": tower.feed_forward,
        "block_count": tower.layers,
        "attention.head_count": tower.heads,
        "projection_dim": n_out,
    }
    for key, value in (keys | tower.keys).items():
        place = "clip" if key.startswith("minicpmv") else "clip.vision"
        if key == "minicpmv_version":
            writer.add_int32(f"{place}.{key}", value)
        else:
            writer.add_uint32(f"{place}.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])


def _add(writer: GGUFWriter, key: str, value: int | float | list[int]) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _values(name: str, size: tuple[int, ...], draw: np.random.Generator) -> NDArray[np.float32]:
    values = draw.standard_normal(size, np.float32)
    if name.endswith(_TABLES):
        return values
    if name.endswith(".bias"):
        return values * np.float32(0.1)
    if len(size) == 1:
        return np.float32(1) + values / np.float32(8)
    gain = 2.5 if "attn_q" in name or "attn_k" in name else 1.5
    return values * np.float32(gain / np.sqrt(np.prod(size[1:])))


def _write(writer: GGUFWriter, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
