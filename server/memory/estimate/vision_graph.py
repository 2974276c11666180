"""The graph of a vision tower as libmtmd builds it, its tensors' sizes alone.

Source: ``clip_graph_llava`` (``tools/mtmd/models/llava.cpp``), ``clip_graph::build_attn``,
``build_ffn`` (``tools/mtmd/clip.cpp``), ``ggml_conv_2d`` (``ggml.c``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from server.memory.estimate.arena import Tape

_F32: Final = 4
_F16: Final = 2


@dataclass(slots=True, frozen=True)
class VisionShape:
    """A tower on one square of ``side`` pixels: ``rows`` patches, one more with a class token.

    ``hidden`` and ``out`` are the widths of the projector; ``pooled``: it joins 2 x 2 patches by
    convolutions (MobileVLM-V2's ldpv2). ``windowed``: a mask over all patches is applied.
    """

    pixels: int
    patch: int
    rows: int
    class_token: bool
    pre_norm: bool
    post_norm: bool
    n_embd: int
    n_ff: int
    n_head: int
    gated: bool
    hidden: int
    out: int
    pooled: bool
    flash_attn: bool
    windowed: bool = False


@lru_cache(maxsize=64)
def vision_bytes(shape: VisionShape) -> int:
    """Bytes of the compute buffer."""
    tape = Tape()
    rows = shape.rows + shape.class_token
    picture, positions = tape.input(shape.pixels * 3 * _F32), tape.input(rows * 4)
    patches = tape.input(shape.rows * 4)
    if shape.windowed:  # kept for all layers, in 16 bits too with flash attention
        mask = tape.input(rows * rows * _F32)
        tape.op(rows * rows * _F16 * shape.flash_attn, mask, kept=True)
    hidden = _embed(tape, shape, rows, picture, positions)
    if shape.pre_norm:
        hidden = _norm(tape, rows * shape.n_embd * _F32, hidden)
    for _ in range(3):  # more of the same need no more memory
        hidden = _layer(tape, shape, rows, hidden)
    if shape.post_norm:
        hidden = _norm(tape, rows * shape.n_embd * _F32, hidden)
    picked = tape.op(shape.rows * shape.n_embd * _F32, tape.view(hidden), patches)
    projected = _linear(tape, shape.rows * shape.hidden * _F32, picked)
    projected = tape.op(shape.rows * shape.hidden * _F32, projected, inplace=True)
    projected = _linear(tape, shape.rows * shape.out * _F32, projected)
    if shape.pooled:
        _pool(tape, shape, projected)
    return tape.peak()


def _embed(tape: Tape, shape: VisionShape, rows: int, picture: int, positions: int) -> int:
    columns = tape.op(shape.rows * 3 * shape.patch**2 * _F16, picture)
    size = shape.rows * shape.n_embd * _F32
    found = tape.view(tape.op(size, tape.view(columns)))
    found = tape.view(tape.op(size, tape.view(found)))
    found = tape.op(size, tape.view(found))
    if shape.class_token:
        size = rows * shape.n_embd * _F32
        found = tape.op(size, found)
    return tape.op(size, found, tape.op(size, positions), inplace=True)


def _layer(tape: Tape, shape: VisionShape, rows: int, hidden: int) -> int:
    size = rows * shape.n_embd * _F32
    normed = _norm(tape, size, hidden)
    attended = _attend(tape, shape, rows, normed)
    middle = tape.op(size, _linear(tape, size, attended), hidden, inplace=True)
    normed = _norm(tape, size, middle)
    wide = rows * shape.n_ff * _F32
    fed = _linear(tape, wide, normed)
    if shape.gated:
        fed = tape.op(wide, _linear(tape, wide, normed), fed)
    else:
        fed = tape.op(wide, fed, inplace=True)
    return tape.op(size, middle, _linear(tape, size, fed), inplace=True)


def _attend(tape: Tape, shape: VisionShape, rows: int, normed: int) -> int:
    size = rows * shape.n_embd * _F32
    flat = [tape.view(_linear(tape, size, normed)) for _ in range(3)]
    query, key, value = (tape.view(place) for place in flat)
    if shape.flash_attn:
        key = tape.op(size // 2, key)
        value = tape.op(size // 2, value)
        return tape.view(tape.op(size, query, key, value))
    value = tape.op(size, value)
    scores = tape.op(rows * rows * shape.n_head * _F32, key, query)
    scores = tape.op(rows * rows * shape.n_head * _F32, scores, inplace=True)
    return tape.op(size, tape.view(tape.op(size, value, scores)))


def _norm(tape: Tape, size: int, source: int) -> int:
    """Mean and variance, then weight and bias, both written over the result."""
    place = tape.op(size, source)
    return tape.op(size, tape.op(size, place, inplace=True), inplace=True)


def _linear(tape: Tape, size: int, source: int) -> int:
    """A matrix and a bias."""
    return tape.op(size, tape.op(size, source), inplace=True)


def _pool(tape: Tape, shape: VisionShape, source: int) -> int:
    """Means of 2 x 2 patches, a depthwise convolution of 3 x 3 over them, both added."""
    size = shape.rows * shape.out * _F32
    grid = tape.op(size, tape.view(source))
    small = size // 4
    pooled = tape.op(small, grid)
    columns = tape.op(small // 2 * 9, tape.view(pooled))
    found = tape.op(small, tape.view(columns))
    found = tape.op(small, tape.view(found))
    found = tape.op(small, found, inplace=True)
    return tape.op(small, found, tape.op(small, tape.view(pooled)), inplace=True)
