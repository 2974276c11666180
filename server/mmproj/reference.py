"""LLaVA's picture features as they were trained, in NumPy.

The tower is CLIP's vision transformer (class token first, at position 0) without its last layer,
or SigLIP's, which has no class token. LLaVA takes the patches' rows of the last layer that is
left, without any norm after it, through linear, GELU, linear.
Sources: transformers' CLIPVisionModel and LlavaForConditionalGeneration
(``vision_feature_layer=-2``, ``vision_feature_select_strategy="default"``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from server.mmproj.faults import TowerFaults
from server.mmproj.layout import (
    CLASS_TOKEN,
    CLIP_MEAN,
    CLIP_STD,
    PATCHES,
    POSITIONS,
    TowerShape,
    metadata,
    tensor_shapes,
)

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

_erf = np.vectorize(math.erf, otypes=[np.float32])
_NO_FAULTS = TowerFaults()


def project(
    weights: Weights, shape: TowerShape, rgb: NDArray[np.uint8], faults: TowerFaults = _NO_FAULTS
) -> Array:
    """The projected patches of one square, float32 [n_patches, n_out], row by row.

    ``weights`` are named as in an mmproj file, in NumPy's order; ``rgb`` is uint8
    [image_size, image_size, 3]. ``faults`` are computed as libmtmd computes them.
    """
    x = _embed(weights, shape, rgb, class_position=faults.class_position)
    for layer in range(shape.layers - faults.skipped_layer):
        x = _block(weights, shape, x, f"v.blk.{layer}")
    if shape.class_token:
        x = np.concatenate([x[2:], x[:1]]) if faults.dropped_patch else x[1:]
    return _linear(weights, "mm.2", _gelu_exact(_linear(weights, "mm.0", x)))


def _embed(
    weights: Weights, shape: TowerShape, rgb: NDArray[np.uint8], *, class_position: bool
) -> Array:
    """Patches with positions, the class token in front: [n_positions, width]."""
    patch, grid = shape.patch_size, shape.image_size // shape.patch_size
    pixels = (rgb / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    pixels = pixels[: grid * patch, : grid * patch].astype(np.float32)
    tiles = pixels.reshape(grid, patch, grid, patch, 3).transpose(0, 2, 4, 1, 3)
    kernel = weights[PATCHES].reshape(shape.width, -1)
    x = tiles.reshape(grid * grid, -1) @ kernel.T + weights.get("v.patch_embd.bias", 0)
    table = weights[POSITIONS]
    if shape.class_token:
        x = np.concatenate([weights[CLASS_TOKEN][None], x])
        if class_position:
            table = np.roll(table, 1, axis=0)
    x = x + table
    return _norm(weights, shape, x, "v.pre_ln") if "v.pre_ln.weight" in weights else x


def _block(weights: Weights, shape: TowerShape, x: Array, name: str) -> Array:
    x = x + _attention(weights, shape, _norm(weights, shape, x, f"{name}.ln1"), name)
    inner = _linear(weights, f"{name}.ffn_up", _norm(weights, shape, x, f"{name}.ln2"))
    inner = _gelu_quick(inner) if shape.class_token else _gelu_tanh(inner)
    return x + _linear(weights, f"{name}.ffn_down", inner)


def _attention(weights: Weights, shape: TowerShape, x: Array, name: str) -> Array:
    q, k, v = (
        _linear(weights, f"{name}.attn_{part}", x)
        .reshape(len(x), shape.heads, -1)
        .transpose(1, 0, 2)
        for part in "qkv"
    )
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(q.shape[-1]))
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    return _linear(weights, f"{name}.attn_out", mixed.transpose(1, 0, 2).reshape(len(x), -1))


def _linear(weights: Weights, name: str, x: Array) -> Array:
    y: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return y


def _norm(weights: Weights, shape: TowerShape, x: Array, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(shape.epsilon))
    y: Array = centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return y


def _gelu_quick(x: Array) -> Array:
    y: Array = x / (1 + np.exp(np.float32(-1.702) * x))
    return y


def _gelu_tanh(x: Array) -> Array:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    y: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return y


def _gelu_exact(x: Array) -> Array:
    y: Array = np.float32(0.5) * x * (1 + _erf(x / np.float32(math.sqrt(2))))
    return y


# It tells of every file at the level of news, and the self-test's towers are none.
logging.getLogger("gguf.gguf_writer").setLevel(logging.WARNING)


def random_weights(shape: TowerShape, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights under which every position, patch and layer tells in every row of the result."""
    draw = np.random.default_rng(seed)
    weights = {}
    for name, size in tensor_shapes(shape).items():
        values = draw.standard_normal(size, np.float32)
        if name in {CLASS_TOKEN, POSITIONS}:
            values *= 2
        elif name.endswith(".bias"):
            values *= np.float32(0.1)
        elif len(size) == 1:
            values = np.float32(1) + values / np.float32(8)
        else:
            values *= np.float32(1.5 / np.sqrt(np.prod(size[1:])))
        weights[name] = values
    return weights


def write_tower(path: Path, shape: TowerShape, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes an mmproj file with these weights as they are, in 32 bits."""
    writer = GGUFWriter(path, "clip")
    write_metadata(writer, shape)
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_metadata(writer: GGUFWriter, shape: TowerShape) -> None:
    """Adds the keys of such a tower to a file that is being written."""
    for key, value in metadata(shape).items():
        if isinstance(value, bool):  # first: a bool is an int to Python
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
