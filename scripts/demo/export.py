"""Writes the two GGUF files, laid out as llama.cpp's own converter lays out LLaVA-1.5."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from torch import Tensor

from scripts.demo.net import CLIP_MEAN, CLIP_STD, EPSILON, GRID, PATCH, ROPE_BASE, Decoder, Tower
from scripts.demo.tokenizer import BOS, END, PAD, Tokenizer

CONTEXT = 8192
NAME = "llava-demo"
LICENSE = "apache-2.0"
# Roles are one control token each; a picture stands where it is written, with a newline after it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role in ('system', 'developer') -%}{{- '<|system|>' -}}
{%- elif message.role == 'assistant' -%}{{- '<|assistant|>' -}}
{%- else -%}{{- '<|user|>' -}}
{%- endif -%}
{%- if message.content is string -%}{{- message.content -}}
{%- elif message.content -%}
{%- for part in message.content -%}
{%- if part.type == 'text' -%}{{- part.text -}}
{%- elif part.type == 'media_marker' -%}{{- part.text + '\\n' -}}
{%- else -%}{{- '<__media__>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
BLOCK_NAMES = {
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "up": "ffn_up",
    "down": "ffn_down",
    "gate": "ffn_gate",
}


def array(weight: Tensor) -> NDArray[np.float32]:
    """A weight as a float32 array."""
    result: NDArray[np.float32] = weight.detach().float().numpy()
    return np.ascontiguousarray(result)


def vision_tensors(tower: Tower) -> dict[str, NDArray[np.float32]]:
    """The tower's and projector's tensors by their names in LLaVA's mmproj files."""
    names = BLOCK_NAMES | {"attention.out": "attn_out", "ln1": "ln1", "ln2": "ln2"}
    tensors = {
        "v.class_embd": array(tower.class_row),
        "v.patch_embd.weight": array(tower.patch.weight).reshape(-1, 3, PATCH, PATCH),
        "v.position_embd.weight": array(tower.positions),
        "v.pre_ln.weight": array(tower.pre.weight),
        "v.pre_ln.bias": array(tower.pre.bias),
    }
    for index, block in enumerate(tower.blocks):
        for name, weight in block.named_parameters():
            part, kind = name.rsplit(".", 1)
            tensors[f"v.blk.{index}.{names[part]}.{kind}"] = array(weight)
    for number, layer in ((0, tower.mm0), (2, tower.mm2)):
        tensors[f"mm.{number}.weight"] = array(layer.weight)
        tensors[f"mm.{number}.bias"] = array(layer.bias)
    return tensors


def language_tensors(decoder: Decoder) -> dict[str, NDArray[np.float32]]:
    """The decoder's tensors by their names in GGUF's `llama` architecture."""
    names = BLOCK_NAMES | {
        "attention.out": "attn_output",
        "norm1": "attn_norm",
        "norm2": "ffn_norm",
    }
    tensors = {
        "token_embd.weight": array(decoder.embedding.weight),
        "output_norm.weight": array(decoder.norm.weight),
        "output.weight": array(decoder.output.weight),
    }
    for index, block in enumerate(decoder.blocks):
        for name, weight in block.named_parameters():
            part = name.rsplit(".", 1)[0]
            tensors[f"blk.{index}.{names[part]}.weight"] = array(weight)
    return tensors


def write_vision(tower: Tower, path: Path) -> None:
    """The mmproj: f16 matrices, f32 for the rest."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(NAME)
    writer.add_description("tower and projector of a small LLaVA for demonstrations")
    writer.add_license(LICENSE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)  # quick-GELU, as CLIP has it
    writer.add_bool("clip.use_silu", False)
    block = tower.blocks[0]
    writer.add_uint32("clip.vision.image_size", GRID * PATCH)
    writer.add_uint32("clip.vision.patch_size", PATCH)
    writer.add_uint32("clip.vision.embedding_length", tower.patch.out_features)
    writer.add_uint32("clip.vision.feed_forward_length", block.up.out_features)
    writer.add_uint32("clip.vision.projection_dim", tower.mm2.out_features)
    writer.add_uint32("clip.vision.attention.head_count", block.attention.heads)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", EPSILON)
    writer.add_uint32("clip.vision.block_count", len(tower.blocks))
    writer.add_array("clip.vision.image_mean", list(CLIP_MEAN))
    writer.add_array("clip.vision.image_std", list(CLIP_STD))
    for name, tensor in vision_tensors(tower).items():
        half = tensor.ndim >= 2 and "position" not in name
        writer.add_tensor(name, tensor.astype(np.float16) if half else tensor)
    _finish(writer)


def write_language(decoder: Decoder, tokenizer: Tokenizer, path: Path) -> None:
    """The language model: q8_0 matrices, f32 norms, tokenizer and chat template."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_license(LICENSE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    block = decoder.blocks[0]
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(decoder.embedding.embedding_dim)
    writer.add_block_count(len(decoder.blocks))
    writer.add_feed_forward_length(block.up.out_features)
    writer.add_head_count(block.attention.heads)
    writer.add_head_count_kv(block.attention.heads)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(decoder.head_width)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(len(tokenizer.pieces))
    _write_tokenizer(writer, tokenizer)
    for name, tensor in language_tensors(decoder).items():
        if tensor.ndim == 2:
            packed = gguf.quants.quantize(tensor, Type.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=Type.Q8_0)
        else:
            writer.add_tensor(name, tensor)
    _finish(writer)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokenizer.pieces)
    writer.add_token_scores(tokenizer.scores)
    writer.add_token_types(tokenizer.types)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(END)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_pair(tower: Tower, decoder: Decoder, tokenizer: Tokenizer, folder: Path) -> list[Path]:
    """Both files, each written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    language, vision = folder / f"{NAME}-q8_0.gguf", folder / f"{NAME}-mmproj-f16.gguf"
    write_language(decoder, tokenizer, language.with_suffix(".part"))
    write_vision(tower, vision.with_suffix(".part"))
    for path in (language, vision):
        path.with_suffix(".part").rename(path)
    return [language, vision]
