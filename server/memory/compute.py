"""Compute buffers and output buffer of the language model."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from server.memory.arena import Tape
from server.memory.graph import F32, GraphShape, Inputs, LayerShape, add_layer
from server.memory.header import ModelHeader
from server.memory.layer_shapes import layer_shapes
from server.memory.parts import PlannedPart
from server.memory.settings import PlanSettings, padded
from server.memory.weights import CPU

_I32, _I64, _F16 = 4, 8, 2
# Whose graphs are those of graph.py, as measured (docs/memory.md).
_EXACT: Final = frozenset({"llama", "qwen2", "qwen3", "mistral3", "internlm2"})


def compute_parts(
    model: ModelHeader, settings: PlanSettings, devices: tuple[str, ...]
) -> list[PlannedPart]:
    """The buffers of the graph on each device that computes a layer, and of the output."""
    graph = graph_shape(model, settings)
    size = graph_bytes(graph)
    guess = model.architecture not in _EXACT
    output = PlannedPart("output", CPU, settings.n_seq_max * model.n_vocab * F32)
    gpus = [name for name in dict.fromkeys(devices) if name != CPU]
    if not gpus:
        return [PlannedPart("compute", CPU, size, guess), output]
    parts = [PlannedPart("compute", name, size, estimated=True) for name in gpus]
    return [*parts, PlannedPart("compute", CPU, inputs_bytes(graph), estimated=True), output]


def graph_shape(model: ModelHeader, settings: PlanSettings) -> GraphShape:
    """The largest graph that llama.cpp reserves: a full batch of all sequences."""
    rows = padded(settings.tokens, max(1, settings.n_seq_max))
    outputs = min(settings.tokens, settings.n_outputs_max or settings.n_batch)
    layers = _distinct(layer_shapes(model, settings))
    return GraphShape(rows, outputs, model.n_embd, model.n_vocab, settings.flash_attn, layers)


def _distinct(layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """Each shape twice, the last layer last: more of the same need no more memory."""
    if not layers:
        return ()
    return (*(one for one in dict.fromkeys(layers) for _ in range(2)), layers[-1])


@lru_cache(maxsize=256)
def graph_bytes(graph: GraphShape) -> int:
    """Bytes of the buffer on one device that computes all of the graph."""
    tape = Tape()
    inputs = _inputs(tape, graph)
    hidden = tape.op(graph.rows * graph.n_embd * F32, inputs.embedding)
    for index, layer in enumerate(graph.layers):
        last = index == len(graph.layers) - 1
        hidden = add_layer(tape, graph, layer, inputs, hidden, last=last)
    size = graph.outputs * graph.n_embd * F32
    normed = tape.op(size, tape.op(size, hidden, inplace=True), inplace=True)
    tape.op(graph.outputs * graph.n_vocab * F32, normed, kept=True)
    return tape.peak()


def inputs_bytes(graph: GraphShape) -> int:
    """Bytes of the inputs, which a CPU fills whoever computes."""
    tape = Tape()
    inputs = _inputs(tape, graph)
    tape.op(graph.rows * graph.n_embd * F32, inputs.embedding)
    return tape.peak()


def _inputs(tape: Tape, graph: GraphShape) -> Inputs:
    rows = graph.rows
    tokens = tape.input(rows * _I32)
    tape.input(rows * graph.n_embd * F32)
    positions = tape.input(rows * _I32)
    for rotation in _rotations(graph):
        tape.input(rotation)
    masks: dict[int, int] = {}
    indices: tuple[int, ...] = ()
    for layer in dict.fromkeys(graph.layers):
        if layer.mask in masks:
            continue
        values = rows if graph.flash_attn else rows * layer.v
        indices = (*indices, tape.input(rows * _I64), tape.input(values * _I64))
        cell = _F16 if graph.flash_attn else F32
        masks[layer.mask] = tape.input(layer.cells * rows * cell)
    return Inputs(tokens, positions, tape.input(graph.outputs * _I32), masks, indices)


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
