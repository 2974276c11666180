"""Tensors that libmtmd would end the process on, found before it loads them.

libmtmd takes shapes and types as the file has them; where they do not fit each other, an assertion
of ggml ends the engine while the graph is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from gguf import GGMLQuantizationType

from server.gguf.cursor import Tensor
from server.mmproj import layout

_FLOATS: Final = frozenset({
    GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16,
})  # fmt: skip
_LAYER: Final = re.compile(r"^v\.blk\.\d+\.")
_SQUARE: Final = ("attn_q", "attn_k", "attn_v", "attn_out")
_NORMS: Final = ("ln1", "ln2")


def wrong_tensor(tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with a tensor of any tower, as the end of a sentence; empty if nothing is."""
    for name, tensor in tensors.items():
        shape = tensor.shape
        if len(shape) == 1 and tensor.type not in _FLOATS:
            return f"tensor {name!r} is {tensor.type.name} where F32 is needed"
        # ggml_conv_2d_dw computes with columns of 16 bits.
        depthwise = len(shape) == 4 and shape[2] == 1 and shape[0] > 1
        if depthwise and tensor.type == GGMLQuantizationType.F32:
            return f"tensor {name!r} is F32 where llama.cpp's convolution needs F16"
    for name, needed in _needed(tensors):
        tensor = tensors[name]
        if tensor.shape != needed:
            return f"tensor {name!r} has the shape {tensor.shape} where {needed} is needed"
    return ""


def _needed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What tensors of a layer say of each other's shapes."""
    for name, tensor in tensors.items():
        if not _LAYER.match(name) or len(tensor.shape) != 2 or not name.endswith(".weight"):
            continue
        bias = f"{name.removesuffix('weight')}bias"
        if bias in tensors:
            yield bias, tensor.shape[1:]
        down = name.replace("ffn_up.", "ffn_down.")
        if down != name and down in tensors:
            yield name, tensors[down].shape[::-1]


def wrong_llava_tensor(tensors: Mapping[str, Tensor], n_embd: int, n_ff: int, patch: int) -> str:
    """As ``wrong_tensor``, for the tower of a LLaVA, whose shapes follow from its keys."""
    needed = {layout.PATCHES: (patch, patch, 3, n_embd), layout.CLASS_TOKEN: (n_embd,)}
    for name in tensors:
        layer = _LAYER.match(name)
        part, _, kind = name.removeprefix(layer[0] if layer else "").rpartition(".")
        if layer and part in _SQUARE:
            needed[name] = (n_embd, n_embd) if kind == "weight" else (n_embd,)
        elif layer and part in _NORMS:
            needed[name] = (n_embd,)
        elif layer and part in {"ffn_up", "ffn_down"} and kind == "weight":
            # Old converters have called each of the two by the other's name.
            shape = tensors[name].shape
            swapped = shape == (n_ff, n_embd)
            needed[name] = (n_ff, n_embd) if swapped else (n_embd, n_ff)
    for name, shape in needed.items():
        if name in tensors and tensors[name].shape != shape:
            return f"tensor {name!r} has the shape {tensors[name].shape} where {shape} is needed"
    return ""
