"""Compute buffers and output buffer of the language model, on each device that computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from server.memory.attention import recurrent
from server.memory.graph import F32, GraphShape, LayerShape
from server.memory.header import ModelHeader
from server.memory.layer_shapes import layer_shapes
from server.memory.parts import PlannedPart
from server.memory.reserve import graph_bytes, inputs_bytes
from server.memory.settings import PlanSettings, padded
from server.memory.weights import CPU

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
    for name in gpus:
        if one := _on_gpu(model, settings, shapes, devices, name):
            sizes[name] = round(graph_bytes(replace(one, copies=copies)) * _factor(model))
    if CPU in devices:  # attention over the cells in the RAM is computed there
        sizes[CPU] += 4 * graph.rows * model.n_embd * F32
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


def _on_gpu(
    model: ModelHeader,
    settings: PlanSettings,
    shapes: tuple[LayerShape, ...],
    devices: tuple[str, ...],
    name: str,
) -> GraphShape | None:
    """What one GPU computes: its own layers, and on the first one also those of the RAM."""
    first = name == settings.gpus[0].name
    layers = []
    for il, shape in enumerate(shapes):
        if devices[il] == name:
            layers.append(shape)
        elif devices[il] == CPU and first and settings.op_offload:
            layers.append(replace(shape, copied=_largest(model, il)))
    if not layers and devices[-1] != name:
        return None
    graph = _graph(model, settings, tuple(layers))
    head = graph.n_vocab if devices[-1] == name or (first and devices[-1] == CPU) else 0
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
