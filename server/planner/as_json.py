"""The plan for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from server.planner.machine import is_plenty
from server.planner.outcome import Outcome


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of the outcome as plain values; sizes in bytes, null where nobody said."""
    subject, settings, plan = outcome.subject, outcome.settings, outcome.plan
    model = subject.model
    return {
        "model": {
            "name": subject.name,
            "architecture": model.architecture,
            "layers": model.n_layer,
            "n_embd": model.n_embd,
            "n_vocab": model.n_vocab,
            "n_ctx_train": model.n_ctx_train,
            "bytes": model.n_bytes,
            "vision": subject.tower is not None,
            "fetched": subject.fetched,
        },
        "settings": {
            "ctx_size": settings.cells,
            "sequences": settings.n_seq_max,
            "batch_size": settings.n_batch,
            "ubatch_size": settings.n_ubatch,
            "n_gpu_layers": plan.layers_offloaded,
            "cache_type_k": settings.cache_type_k,
            "cache_type_v": settings.cache_type_v,
            "flash_attn": settings.flash_attn,
            "image_size": settings.image_size,
            "memory_margin": outcome.margin,
        },
        "devices": [
            {
                "name": device.name,
                "kind": device.kind,
                "total": None if is_plenty(device) else device.total,
                "free": None if is_plenty(device) else device.free,
                "planned": plan.on(device.name),
                "overflow": outcome.overflow.get(device.name, 0),
            }
            for device in settings.devices
        ],
        "parts": [asdict(part) for part in plan.parts],
        "total": plan.total,
        "fits": outcome.fits,
        "layers": plan.layers,
        "layers_that_fit": outcome.layers,
        "largest_context": outcome.context,
        "largest_context_on_gpus": outcome.gpu_context,
        "resolutions": [asdict(one) for one in outcome.resolutions],
        "quantizations": [asdict(one) for one in outcome.quantizations],
    }
