"""Compute buffers and output buffer of the language model, on each device that computes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from server.cache_types import CACHE_TYPES
from server.gguf.model_header import ModelHeader
from server.memory.estimate.arena import Tape
from server.memory.estimate.graph import F32, GraphShape, Inputs, LayerShape, add_layer
from server.memory.estimate.inputs import PlannedPart, PlanSettings, padded
from server.memory.estimate.kv_cache import layer_heads, recurrent, slides, window_cells
from server.memory.estimate.weights import CPU


def layer_shapes(model: ModelHeader, settings: PlanSettings) -> tuple[LayerShape, ...]:
    """The shapes of all layers that a token passes."""
    heads = layer_heads(model)
    n_head = model.per_layer("attention.head_count", 0)
    slide = slides(model)
    small = window_cells(model, settings)
    first = n_head[0] if n_head else 0
    head = model.n_embd // first if first else 0
    head_k = model.key("attention.key_length", head)
    head_v = model.key("attention.value_length", head)
    experts = model.key("expert_count")
    used = model.per_layer("expert_used_count", 0)
    found = []
    for il in range(model.n_layer or model.n_layer_all):
        block = f"blk.{il}."
        routed = f"{block}ffn_gate_inp.weight" in model.by_name and experts
        found.append(
            LayerShape(
                q=_width(model, f"{block}attn_q.weight", n_head[il] * head_k),
                k=heads[il].k,
                v=heads[il].v or heads[il].k,
                out=n_head[il] * head_v,
                heads=n_head[il],
                ff=_ff(model, block, il),
                cells=small if slide[il] else settings.cells,
                gated=f"{block}ffn_gate.weight" in model.by_name,
                biased=f"{block}attn_q.bias" in model.by_name,
                fused_qkv=f"{block}attn_qkv.weight" in model.by_name,
                experts=experts if routed else 0,
                experts_used=used[il] if routed else 0,
                expert_ff=_expert_ff(model, block) if routed else 0,
                rotate_k=CACHE_TYPES[settings.cache_type_k].is_quantized and head_k % 64 == 0,
                rotate_v=CACHE_TYPES[settings.cache_type_v].is_quantized and head_v % 64 == 0,
                cast_k=settings.cache_type_k == "f32",
                cast_v=settings.cache_type_v == "f32",
                mask=int(slide[il]),
            )
        )
    return tuple(found)


def _width(model: ModelHeader, name: str, default: int) -> int:
    tensor = model.by_name.get(name)
    return tensor.shape[1] if tensor and len(tensor.shape) > 1 else default


def _ff(model: ModelHeader, block: str, layer: int) -> int:
    wide = model.per_layer("feed_forward_length", 0)[layer]
    return _width(model, f"{block}ffn_up.weight", wide)


def _expert_ff(model: ModelHeader, block: str) -> int:
    tensor = model.by_name.get(f"{block}ffn_up_exps.weight")
    if tensor and len(tensor.shape) > 1:
        return tensor.shape[1]
    return model.key("expert_feed_forward_length", model.key("feed_forward_length"))


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
    """Bytes of the inputs, which the CPU fills, whichever device computes."""
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


# Whose graphs are those of graph.py: to the byte in three loads each (docs/memory.md).
_EXACT: Final = frozenset(
    {"arcee", "arctic", "codeshell", "dbrx", "ernie4_5", "exaone", "falcon", "gemma", "gemma2"}
    | {"gemma3", "gpt-oss", "gptneox", "granite", "granite_swa", "grovemoe", "hunyuan-dense"}
    | {"internlm2", "jais2", "llama", "maincoder", "maple", "mellum", "mimo2", "minicpm"}
    | {"minimax-m2", "mistral3", "muse-glimmer", "nemotron", "olmo", "olmoe", "orion"}
    | {"pangu-embedded", "phimoe", "qwen2", "qwen2vl"}
)
# Other graphs took up to a quarter more than graph.py says, some kinds several times as much;
# a plan that is too large is better than one that is too small.
_OTHER: Final = 1.25
_STATES: Final = 3.0
_INDEXERS: Final = 5.0
_GPU_ALIGNMENT: Final = 128
# ggml's GGML_SCHED_MAX_COPIES: batches that several GPUs work on at once.
_PIPELINE: Final = 4


def compute_parts(
    model: ModelHeader, settings: PlanSettings, devices: tuple[str, ...]
) -> list[PlannedPart]:
    """The buffers of the graph on each device that computes a layer, and of the output."""
    shapes = layer_shapes(model, settings)
    graph = _graph(model, settings, shapes)
    output = PlannedPart("output", CPU, settings.n_seq_max * model.n_vocab * F32)
    gpus = [device.name for device in settings.gpus]
    if not gpus:
        size = round(graph_bytes(graph) * _factor(model))
        guess = model.architecture not in _EXACT
        return [PlannedPart("compute", CPU, size, guess), output]
    copies = _PIPELINE if len(gpus) > 1 and CPU not in devices else 1
    sizes = {CPU: inputs_bytes(replace(graph, copies=copies))}
    helper = _helper(settings)
    for name in gpus:
        if one := _on_device(model, settings, shapes, devices, name):
            sizes[name] = round(graph_bytes(replace(one, copies=copies)) * _factor(model))
    if CPU in devices and helper != CPU:  # attention over the cells in the RAM is computed there
        sizes[CPU] += 4 * graph.rows * model.n_embd * F32
    elif own := _on_device(model, settings, shapes, devices, CPU):
        sizes[CPU] = max(sizes[CPU], round(graph_bytes(own) * _factor(model)))
    parts = [PlannedPart("compute", name, size, estimated=True) for name, size in sizes.items()]
    return [*parts, output]


def _factor(model: ModelHeader) -> float:
    """How much more than graph.py says the architecture's graph may take."""
    if model.architecture in _EXACT:
        return 1.0
    if model.architecture in {"deepseek32", "glm-dsa", "grok"}:
        return _INDEXERS
    return _STATES if any(recurrent(model)) else _OTHER


def _graph(
    model: ModelHeader, settings: PlanSettings, shapes: tuple[LayerShape, ...]
) -> GraphShape:
    """The largest graph that llama.cpp reserves: a full batch of all sequences."""
    rows = padded(settings.tokens, max(1, settings.n_seq_max))
    outputs = min(settings.tokens, settings.n_outputs_max or settings.n_batch)
    layers = _distinct(shapes)
    return GraphShape(rows, outputs, model.n_embd, model.n_vocab, settings.flash_attn, layers)


def _helper(settings: PlanSettings) -> str:
    """The device that computes large batches of the layers in the RAM."""
    return next((gpu.name for gpu in settings.gpus if gpu.takes_batches), CPU)


def _on_device(
    model: ModelHeader,
    settings: PlanSettings,
    shapes: tuple[LayerShape, ...],
    devices: tuple[str, ...],
    name: str,
) -> GraphShape | None:
    """What one device computes: its own layers, and one of them also those of the RAM."""
    helps = name == _helper(settings)
    layers = []
    for il, shape in enumerate(shapes):
        if devices[il] == name:
            layers.append(shape)
        elif devices[il] == CPU and helps:
            layers.append(replace(shape, copied=_largest(model, il)))
    if not layers and devices[-1] != name:
        return None
    graph = _graph(model, settings, tuple(layers))
    head = graph.n_vocab if devices[-1] == name or (helps and devices[-1] == CPU) else 0
    if name == CPU:
        return replace(graph, n_vocab=head)
    return replace(graph, n_vocab=head, from_tokens=False, alignment=_GPU_ALIGNMENT)


def _largest(model: ModelHeader, layer: int) -> int:
    return max((one.n_bytes for one in model.by_layer.get(layer, ())), default=0)


def _distinct(layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """Three of each shape and the last layer: more of the same need no more memory."""
    kept: list[LayerShape] = []
    for layer in layers[:-1]:
        if kept.count(layer) < 3:
            kept.append(layer)
    return (*kept, *layers[-1:])
