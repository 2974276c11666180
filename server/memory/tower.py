"""The vision tower: weights, compute buffer at the chosen resolution, cache of embeddings."""

from __future__ import annotations

from typing import Final

from server.memory.header import TowerHeader
from server.memory.image_tokens import POOLED, is_resized, patch, patches_at_once, projector, side
from server.memory.parts import PlannedPart
from server.memory.settings import PlanSettings, padded
from server.memory.vision_graph import VisionShape, vision_bytes
from server.memory.weights import CPU

_POSITIONS: Final = "v.position_embd.weight"
_CLASS: Final = "v.class_embd"
# Whose graphs are those of vision_graph.py, as measured (docs/memory.md).
_EXACT: Final = frozenset({"mlp", "ldpv2"})
_F32: Final = 4
_ALIGNMENT: Final = 64


def tower_parts(tower: TowerHeader | None, settings: PlanSettings) -> list[PlannedPart]:
    """The tower's parts; none without a tower."""
    if tower is None:
        return []
    on_gpu = bool(settings.mmproj_offload and settings.gpus)
    device = _gpu(settings) if on_gpu else CPU
    shape = vision_shape(tower, settings)
    guess = on_gpu or projector(tower) not in _EXACT
    return [
        PlannedPart("vision_encoder", device, tower_bytes(tower, settings)),
        PlannedPart("vision_compute", device, vision_bytes(shape), guess),
        PlannedPart("image_cache", CPU, settings.image_cache_bytes),
    ]


def _gpu(settings: PlanSettings) -> str:
    """The GPU of the tower: the main one."""
    gpus = settings.gpus
    return gpus[min(settings.main_gpu, len(gpus) - 1)].name


def tower_bytes(tower: TowerHeader, settings: PlanSettings) -> int:
    """Bytes of the weights; a changed resolution changes the table of positions."""
    size = sum(padded(tensor.n_bytes, _ALIGNMENT) for tensor in tower.tensors)
    table = tower.by_name.get(_POSITIONS)
    if table is None or not is_resized(tower, settings):
        return size
    shape = vision_shape(tower, settings)
    rows = shape.rows + shape.class_token
    return size - padded(table.n_bytes, _ALIGNMENT) + padded(rows * shape.n_embd * _F32, _ALIGNMENT)


def vision_shape(tower: TowerHeader, settings: PlanSettings) -> VisionShape:
    """The largest square that the tower will compute."""
    rows = patches_at_once(tower, settings)
    width = tower.number("clip.vision.embedding_length")
    return VisionShape(
        pixels=side(tower, settings) ** 2 or rows * patch(tower) ** 2,
        patch=patch(tower),
        rows=rows,
        class_token=_CLASS in tower.by_name,
        pre_norm="v.pre_ln.weight" in tower.by_name,
        post_norm="v.post_ln.weight" in tower.by_name,
        n_embd=width,
        n_ff=_ff(tower),
        n_head=tower.number("clip.vision.attention.head_count"),
        gated="v.blk.0.ffn_gate.weight" in tower.by_name,
        hidden=_width(tower, ("mm.0.weight", "mm.model.mlp.0.weight", "mm.model.mlp.1.weight")),
        out=_width(tower, ("mm.2.weight", "mm.model.mlp.2.weight", "mm.model.mlp.3.weight")),
        pooled=projector(tower) in POOLED,
        flash_attn=True,
    )


def _width(tower: TowerHeader, names: tuple[str, ...]) -> int:
    for name in names:
        tensor = tower.by_name.get(name)
        if tensor and len(tensor.shape) > 1:
            return tensor.shape[1]
    return tower.number("clip.vision.projection_dim")


def _ff(tower: TowerHeader) -> int:
    found = {"ffn_up", "ffn_down"}
    sizes = (tower.by_name.get(f"v.blk.0.{name}.weight") for name in found)
    widths = [max(tensor.shape) for tensor in sizes if tensor and len(tensor.shape) > 1]
    return max([tower.number("clip.vision.feed_forward_length"), *widths])
