"""Bytes of a device's compute buffer, from the shapes of the layers that it computes."""

from __future__ import annotations

from functools import lru_cache

from server.memory.arena import Tape
from server.memory.graph import F32, GraphShape, Inputs, add_layer

_I32, _I64, _F16 = 4, 8, 2


@lru_cache(maxsize=256)
def graph_bytes(graph: GraphShape) -> int:
    """Bytes of the buffer on one device that computes this graph."""
    tape = Tape()
    inputs = _inputs(tape, graph)
    size = graph.rows * graph.n_embd * F32
    hidden = tape.op(size, inputs.embedding) if graph.from_tokens else inputs.embedding
    for index, layer in enumerate(graph.layers):
        last = index == len(graph.layers) - 1 and graph.n_vocab > 0
        hidden = add_layer(tape, graph, layer, inputs, hidden, last=last)
    if graph.n_vocab:
        size = graph.outputs * graph.n_embd * F32
        normed = tape.op(size, tape.op(size, hidden, inplace=True), inplace=True)
        tape.op(graph.outputs * graph.n_vocab * F32, normed, kept=True)
    return tape.peak(graph.alignment)


@lru_cache(maxsize=64)
def inputs_bytes(graph: GraphShape) -> int:
    """Bytes of the inputs, which the CPU fills whoever computes."""
    tape = Tape()
    inputs = _inputs(tape, graph)
    tape.op(graph.rows * graph.n_embd * F32, inputs.embedding)
    return tape.peak()


def _inputs(tape: Tape, graph: GraphShape) -> Inputs:
    rows = graph.rows
    first = _many(tape, graph, rows * (_I32 if graph.from_tokens else graph.n_embd * F32))
    if graph.from_tokens:
        tape.input(rows * graph.n_embd * F32)
    positions = _many(tape, graph, rows * _I32)
    for rotation in _rotations(graph):
        _many(tape, graph, rotation)
    masks: dict[int, int] = {}
    indices: tuple[int, ...] = ()
    for layer in dict.fromkeys(graph.layers):
        if layer.mask in masks:
            continue
        values = rows if graph.flash_attn else rows * layer.v
        indices = (*indices, _many(tape, graph, rows * _I64), _many(tape, graph, values * _I64))
        cell = _F16 if graph.flash_attn else F32
        masks[layer.mask] = _many(tape, graph, layer.cells * rows * cell)
    return Inputs(first, positions, _many(tape, graph, graph.outputs * _I32), masks, indices)


def _many(tape: Tape, graph: GraphShape, size: int) -> int:
    """An input, and its copies for the batches that are in the pipeline with it."""
    for _ in range(graph.copies - 1):
        tape.input(size)
    return tape.input(size)


def _rotations(graph: GraphShape) -> list[int]:
    """Bytes of the matrices that turn keys and values before they are quantized."""
    found = []
    for layer in graph.layers[:1]:
        if layer.rotate_k:
            width = max(layer.q // max(layer.heads, 1), 64)
            side = 64
            while width % (side * 2) == 0:
                side *= 2
            found.append(side * side * F32)
        if layer.rotate_v:
            found.append(64 * 64 * F32)
    return found
