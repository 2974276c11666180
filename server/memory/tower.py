"""The vision tower: weights, compute buffer at the chosen resolution, cache of embeddings."""

from __future__ import annotations

from server.memory.header import TowerHeader
from server.memory.parts import PlannedPart
from server.memory.settings import PlanSettings
from server.memory.weights import CPU


def tower_parts(tower: TowerHeader | None, settings: PlanSettings) -> list[PlannedPart]:
    """The tower's parts; none without a tower."""
    if tower is None:
        return []
    device = settings.gpus[0].name if settings.mmproj_offload and settings.gpus else CPU
    return [
        PlannedPart("vision_encoder", device, tower.n_bytes),
        PlannedPart("vision_compute", device, 64 << 20, estimated=True),
        PlannedPart("image_cache", CPU, settings.image_cache_bytes),
    ]
