"""The graph of a transformer as llama.cpp builds it, its tensors' sizes alone.

Source: ``llama_model_llama::graph`` (``src/models/llama.cpp``) and ``build_attn``, ``build_ffn``,
``build_moe_ffn`` (``src/llama-graph.cpp``). All results are of 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.memory.estimate.arena import Tape

F32: Final = 4


@dataclass(slots=True, frozen=True)
class LayerShape:
    """Widths of a layer: query, key and value over all heads, feed-forward; heads; experts used.

    ``cells`` that it attends to, under the ``mask`` of that number; ``rotate_k``, ``rotate_v``:
    keys and values are turned before they are quantized into the cache, ``cast_k``, ``cast_v``:
    they are copied out of it in 16 bits. ``copied``: bytes of
    the largest matrix where weights lie in the RAM and are copied to the GPU for each use.
    """

    q: int
    k: int
    v: int
    out: int
    heads: int
    ff: int
    cells: int
    gated: bool = True
    biased: bool = False
    fused_qkv: bool = False
    experts: int = 0
    experts_used: int = 0
    expert_ff: int = 0
    rotate_k: bool = False
    rotate_v: bool = False
    cast_k: bool = False
    cast_v: bool = False
    mask: int = 0
    copied: int = 0


@dataclass(slots=True, frozen=True)
class GraphShape:
    """A batch of ``rows`` positions, ``outputs`` of which are asked for, through the layers.

    ``from_tokens``: it begins with the tokens' embeddings, else with the result of another
    device. ``n_vocab`` 0: it ends before the output layer. ``copies`` of each input are kept
    where devices work in a pipeline.
    """

    rows: int
    outputs: int
    n_embd: int
    n_vocab: int
    flash_attn: bool
    layers: tuple[LayerShape, ...]
    from_tokens: bool = True
    copies: int = 1
    alignment: int = 64


@dataclass(slots=True)
class Inputs:
    """Places of the inputs that the layers share."""

    embedding: int
    positions: int
    wanted: int
    masks: dict[int, int]
    indices: tuple[int, ...] = ()


def add_layer(
    tape: Tape, graph: GraphShape, layer: LayerShape, inputs: Inputs, hidden: int, *, last: bool
) -> int:
    """One layer: attention and feed-forward, each with its norm and residual."""
    size = graph.rows * graph.n_embd * F32
    normed = tape.op(size, tape.op(size, hidden, inplace=True), inplace=True)
    attended = _attention(tape, graph, layer, inputs, normed)
    rows, residual = graph.rows, hidden
    if last:
        rows, size = graph.outputs, graph.outputs * graph.n_embd * F32
        attended = tape.op(size, attended, inputs.wanted)
        residual = tape.op(size, hidden, inputs.wanted)
    middle = tape.op(size, attended, residual, inplace=True)
    normed = tape.op(size, tape.op(size, middle, inplace=True), inplace=True)
    if layer.experts:
        fed = _experts(tape, graph, layer, normed, rows)
    else:
        fed = _feed_forward(tape, graph, layer, normed, rows)
    return tape.op(size, fed, middle, inplace=True)


def _attention(
    tape: Tape, graph: GraphShape, layer: LayerShape, inputs: Inputs, normed: int
) -> int:
    query, key, value = _project(tape, graph, layer, inputs, normed)
    # Into the cache, which is not part of the buffer.
    for place in (key, value):
        tape.op(0, tape.view(place), *inputs.indices)
    size = graph.rows * layer.out * F32
    query = tape.view(tape.view(query))
    mask = inputs.masks[layer.mask]
    if graph.flash_attn:
        # A cache of 32 bits is copied to 16, which flash attention takes.
        casts = [
            tape.op(layer.cells * width * F32 // 2)
            for width, cast in ((layer.k, layer.cast_k), (layer.v, layer.cast_v))
            if cast
        ]
        found = tape.view(tape.op(size, query, *casts, mask))
    else:
        scores = tape.op(layer.cells * graph.rows * layer.heads * F32, query)
        scores = tape.op(tape.nodes[scores].size, scores, mask, inplace=True)
        found = tape.op(size, tape.view(tape.op(size, scores)))
    if layer.rotate_v:
        found = tape.op(size, found)
    return tape.op(graph.rows * graph.n_embd * F32, found)


def _project(
    tape: Tape, graph: GraphShape, layer: LayerShape, inputs: Inputs, normed: int
) -> tuple[int, int, int]:
    rows = graph.rows * F32
    if layer.fused_qkv:
        joint = tape.op(rows * (layer.q + layer.k + layer.v), normed)
        if layer.biased:
            joint = tape.op(tape.nodes[joint].size, joint, inplace=True)
        query, value, key = tape.view(joint), tape.view(joint), tape.view(joint)
        query = tape.op(rows * layer.q, query, inputs.positions)
        key = tape.op(rows * layer.k, key, inputs.positions)
        return query, key, value
    query = _turned(tape, layer, rows * layer.q, normed, inputs.positions)
    value = _linear(tape, rows * layer.v, normed, biased=layer.biased)
    value = tape.view(value)
    if layer.rotate_v:
        value = tape.view(tape.op(rows * layer.v, tape.view(value)))
    key = _turned(tape, layer, rows * layer.k, normed, inputs.positions)
    return query, key, value


def _turned(tape: Tape, layer: LayerShape, size: int, normed: int, positions: int) -> int:
    """A query or key at its position, and turned once more where the cache is quantized."""
    place = tape.view(_linear(tape, size, normed, biased=layer.biased))
    place = tape.op(size, place, positions, inplace=True)
    return tape.view(tape.op(size, tape.view(place))) if layer.rotate_k else place


def _linear(tape: Tape, size: int, source: int, *, biased: bool = False) -> int:
    place = tape.op(size, source)
    return tape.op(size, place, inplace=True) if biased else place


def _feed_forward(tape: Tape, graph: GraphShape, layer: LayerShape, normed: int, rows: int) -> int:
    wide = rows * layer.ff * F32
    if layer.copied:
        place = tape.op(wide, normed, tape.op(layer.copied))
    else:
        place = _linear(tape, wide, normed, biased=layer.biased and not layer.gated)
    if layer.gated:
        other = (tape.op(layer.copied),) if layer.copied else ()
        place = tape.op(wide, place, tape.op(wide, normed, *other))
    else:
        place = tape.op(wide, place, inplace=True)
    return tape.op(rows * graph.n_embd * F32, place)


def _experts(tape: Tape, graph: GraphShape, layer: LayerShape, normed: int, rows: int) -> int:
    scores = tape.op(rows * layer.experts * F32, normed)
    scores = tape.op(tape.nodes[scores].size, scores, inplace=True)
    order = tape.view(tape.op(tape.nodes[scores].size, scores))
    weights = tape.op(rows * layer.experts_used * F32, tape.view(scores), order)
    total = tape.op(rows * F32, tape.view(weights))
    weights = tape.op(rows * layer.experts_used * F32, weights, total, inplace=True)
    wide = rows * layer.experts_used * layer.expert_ff * F32
    source = tape.view(normed)
    other = (tape.op(layer.copied),) if layer.copied else ()
    gate = tape.op(wide, source, order, *other)
    other = (tape.op(layer.copied),) if layer.copied else ()
    place = tape.op(wide, gate, tape.op(wide, source, order, *other))
    size = rows * layer.experts_used * graph.n_embd * F32
    place = tape.op(size, place, order)
    place = tape.op(size, place, weights, inplace=True)
    one = rows * graph.n_embd * F32
    found = tape.view(place)
    for _ in range(max(layer.experts_used - 1, 1)):
        found = tape.op(one, found, tape.view(place), inplace=True)
    return found
