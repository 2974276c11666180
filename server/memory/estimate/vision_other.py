"""The graphs of vision towers other than LLaVA's, as libmtmd builds them, by sizes alone.

Source: ``clip_graph_gemma4v`` (tools/mtmd/models/gemma4v.cpp), ``clip_graph::build_vit``
(tools/mtmd/clip.cpp), ``clip_graph_yasa2`` (tools/mtmd/models/yasa2.cpp), ``ggml_conv_2d``,
``ggml_conv_2d_dw`` (ggml.c). tests/test_memory_towers.py compares both with what libmtmd
allocates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from server.memory.estimate.arena import Tape

_F32: Final = 4
_F16: Final = 2


@dataclass(slots=True, frozen=True)
class GemmaShape:
    """Gemma 4's tower on ``rows`` patches, ``merge`` times ``merge`` of which become a token."""

    rows: int
    merge: int
    patch: int
    n_embd: int
    n_ff: int
    n_head: int
    gated: bool
    per_head_norm: bool
    out: int
    flash_attn: bool


@lru_cache(maxsize=64)
def gemma_bytes(shape: GemmaShape) -> int:
    """Bytes of the compute buffer."""
    tape = Tape()
    size = shape.rows * shape.n_embd * _F32
    picture = tape.input(shape.rows * shape.patch**2 * 3 * _F32)
    across, down = tape.input(shape.rows * 4), tape.input(shape.rows * 4)
    scaled = tape.op(tape.nodes[picture].size, picture, inplace=True)
    columns = tape.op(shape.rows * 3 * shape.patch**2 * _F16, scaled)
    hidden = tape.view(tape.op(size, tape.view(columns)))
    hidden = tape.view(tape.op(size, tape.view(hidden)))
    hidden = tape.op(size, tape.view(hidden))
    hidden = tape.op(size, hidden, tape.op(size, across), inplace=True)
    hidden = tape.view(tape.op(size, hidden, tape.op(size, down), inplace=True))
    for _ in range(3):  # more of the same need no more memory
        hidden = _gemma_layer(tape, shape, hidden, across, down)
    tokens = max(shape.rows // shape.merge**2, 1)
    grid = tape.op(size, tape.view(tape.view(hidden)))
    pooled = tape.view(tape.op(tokens * shape.n_embd * _F32, grid))
    pooled = tape.op(tokens * shape.n_embd * _F32, tape.view(pooled))
    for _ in range(2):  # scaled, then normed
        pooled = tape.op(tape.nodes[pooled].size, pooled, inplace=True)
    tape.op(tokens * shape.out * _F32, pooled)
    return tape.peak()


def _gemma_layer(tape: Tape, shape: GemmaShape, hidden: int, across: int, down: int) -> int:
    size = shape.rows * shape.n_embd * _F32
    normed = _rms_norm(tape, size, hidden)
    query, key, value = (tape.view(tape.op(size, normed)) for _ in range(3))
    turned = []
    for place in (query, key):
        found = _rms_norm(tape, size, place) if shape.per_head_norm else place
        found = tape.op(size, found, across, inplace=True)
        turned.append(tape.op(size, found, down, inplace=True))
    value = tape.op(size, value, inplace=True)
    query, key, value = (tape.view(place) for place in (*turned, value))
    if shape.flash_attn:
        key = tape.op(size // 2, key)
        value = tape.op(size // 2, value)
        attended = tape.view(tape.op(size, query, key, value))
    else:
        value = tape.op(size, value)
        scores = tape.op(shape.rows**2 * shape.n_head * _F32, key, query)
        scores = tape.op(tape.nodes[scores].size, scores, inplace=True)
        attended = tape.op(size, tape.view(tape.op(size, value, scores)))
    middle = tape.op(size, tape.op(size, attended), hidden, inplace=True)
    normed = _rms_norm(tape, size, middle)
    wide = shape.rows * shape.n_ff * _F32
    fed = tape.op(wide, normed)
    if shape.gated:
        fed = tape.op(wide, tape.op(wide, normed), fed)
    else:
        fed = tape.op(wide, fed, inplace=True)
    return tape.op(size, middle, tape.op(size, fed), inplace=True)


def _rms_norm(tape: Tape, size: int, source: int) -> int:
    """The norm and its weight, written over the input where that is free."""
    return tape.op(size, tape.op(size, source, inplace=True), inplace=True)


@dataclass(slots=True, frozen=True)
class ConvShape:
    """A ConvNeXt V2 on a square of ``side`` pixels: of each stage its channels and blocks.

    ``hidden`` and ``out`` are the widths of the projector.
    """

    side: int
    patch: int
    stages: tuple[tuple[int, int], ...]
    hidden: int
    out: int


@lru_cache(maxsize=64)
def conv_bytes(shape: ConvShape) -> int:
    """Bytes of the compute buffer."""
    tape = Tape()
    current = tape.input(shape.side**2 * 3 * _F32)
    edge, channels = shape.side // shape.patch, shape.stages[0][0]
    current = _conv(tape, current, edge**2, 3 * shape.patch**2, channels)
    current = _channel_norm(tape, current, edge**2, channels)
    for index, (width, blocks) in enumerate(shape.stages):
        if index:
            current = _channel_norm(tape, current, edge**2, channels)
            edge //= 2
            current = _conv(tape, current, edge**2, 4 * channels, width)
        channels = width
        for _ in range(min(blocks, 3)):
            current = _block(tape, current, edge**2, channels)
    size = edge**2 * channels * _F32
    rows = tape.op(size, tape.view(tape.view(current)))
    grid = tape.view(tape.op(size, tape.view(rows)))
    tokens = min(edge, 8) ** 2
    pooled = tape.view(tape.op(tokens * channels * _F32, grid))
    found = tape.op(tokens * channels * _F32, tape.view(pooled))
    found = _linear(tape, tokens * shape.hidden * _F32, found)
    found = tape.op(tape.nodes[found].size, found, inplace=True)
    _linear(tape, tokens * shape.out * _F32, found)
    return tape.peak()


def _linear(tape: Tape, size: int, source: int) -> int:
    return tape.op(size, tape.op(size, source), inplace=True)


def _conv(tape: Tape, source: int, points: int, taps: int, channels: int) -> int:
    """A convolution without overlap: its columns in 16 bits, the product, its bias."""
    columns = tape.op(points * taps * _F16, source)
    size = points * channels * _F32
    product = tape.view(tape.op(size, tape.view(columns)))
    return _linear(tape, size, tape.view(product))


def _channel_norm(tape: Tape, source: int, points: int, channels: int) -> int:
    size = points * channels * _F32
    place = tape.op(size, tape.view(source))
    centred = tape.op(size, place, tape.op(points * _F32, place), inplace=True)
    spread = tape.op(points * _F32, tape.op(size, centred, centred))
    for _ in range(2):  # clamped, then its root
        spread = tape.op(points * _F32, spread, inplace=True)
    normed = tape.op(size, centred, spread, inplace=True)
    return _linear(tape, size, tape.op(size, tape.view(normed), inplace=True))


def _block(tape: Tape, residual: int, points: int, channels: int) -> int:
    size, wide = points * channels * _F32, 4 * points * channels * _F32
    columns = tape.op(points * 49 * channels * _F16, tape.view(residual))
    product = tape.view(tape.op(size, tape.view(columns)))
    found = _channel_norm(tape, tape.op(size, product), points, channels)
    rows = tape.op(size, tape.view(tape.view(found)))
    found = tape.op(wide, tape.view(_linear(tape, wide, rows)))
    found = _response_norm(tape, tape.op(wide, tape.view(found)), 4 * channels, wide)
    rows = tape.op(wide, tape.view(tape.view(found)))
    found = tape.op(size, tape.view(_linear(tape, size, rows)))
    return tape.op(size, residual, tape.view(found), inplace=True)


def _response_norm(tape: Tape, source: int, channels: int, size: int) -> int:
    """ConvNeXt V2's global response norm."""
    row = channels * _F32
    sums = tape.op(row, tape.view(tape.op(size, source, source)))
    sums = tape.op(row, sums, inplace=True)
    mean = tape.op(_F32, tape.op(row, tape.view(sums)))
    mean = tape.op(_F32, mean, inplace=True)
    ratio = tape.op(row, tape.view(tape.op(row, sums, mean, inplace=True)))
    found = tape.op(size, source, ratio)
    for _ in range(2):  # its weight and its bias
        found = tape.op(size, found, inplace=True)
    return tape.op(size, source, found, inplace=True)
