"""Compute buffers and output buffer of the language model."""

from __future__ import annotations

from server.memory.header import ModelHeader
from server.memory.parts import PlannedPart
from server.memory.settings import PlanSettings, padded
from server.memory.weights import CPU

_F32, _F16 = 4, 2


def compute_parts(
    model: ModelHeader, settings: PlanSettings, devices: tuple[str, ...]
) -> list[PlannedPart]:
    """The buffers of the graph on each device that computes a layer, and of the output."""
    rows = padded(settings.tokens, max(1, settings.n_seq_max))
    mask = settings.cells * rows * (_F16 if settings.flash_attn else _F32)
    outputs = min(settings.tokens, settings.n_outputs_max or settings.n_batch)
    logits = outputs * model.n_vocab * _F32
    width = 3 * rows * model.n_embd * _F32
    found = dict.fromkeys(devices, mask + width)
    found[devices[-1]] += logits
    found.setdefault(CPU, mask + rows * model.n_embd * _F32)
    parts = [PlannedPart("compute", name, size, estimated=True) for name, size in found.items()]
    sizes = settings.n_seq_max * model.n_vocab * _F32
    return [*parts, PlannedPart("output", CPU, sizes)]
