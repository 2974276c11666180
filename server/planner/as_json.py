"""The plan for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from server.memory.settings import PlanDevice
from server.planner.machine import is_plenty
from server.planner.outcome import Outcome
from server.planner.subject import Subject


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All of the outcome as plain values; sizes in bytes, null where nobody said."""
    return {
        "model": _model(outcome.subject),
        "settings": _settings(outcome),
        "devices": [_device(outcome, device) for device in outcome.settings.devices],
        "parts": [asdict(part) for part in outcome.plan.parts],
        "total": outcome.plan.total,
        "fits": outcome.fits,
        "layers": outcome.plan.layers,
        "refusal": outcome.refusal,
        "decisions": [asdict(decision) for decision in outcome.decisions],
        "largest_context": outcome.context,
        "largest_context_on_gpus": outcome.gpu_context,
        "resolutions": [asdict(one) for one in outcome.resolutions],
        "quantizations": [asdict(one) for one in outcome.quantizations],
    }


def _model(subject: Subject) -> dict[str, Any]:
    model = subject.model
    return {
        "name": subject.name,
        "architecture": model.architecture,
        "layers": model.n_layer,
        "n_embd": model.n_embd,
        "n_vocab": model.n_vocab,
        "n_ctx_train": model.n_ctx_train,
        "bytes": model.n_bytes,
        "vision": subject.tower is not None,
        "fetched": subject.fetched,
    }


def _settings(outcome: Outcome) -> dict[str, Any]:
    settings = outcome.settings
    return {
        "ctx_size": settings.cells,
        "parallel": outcome.parallel,
        "sequences": settings.n_seq_max,
        "batch_size": settings.n_batch,
        "ubatch_size": settings.n_ubatch,
        "n_gpu_layers": outcome.plan.layers_offloaded,
        "cache_type_k": settings.cache_type_k,
        "cache_type_v": settings.cache_type_v,
        "flash_attn": settings.flash_attn,
        "mmproj_offload": settings.mmproj_offload,
        "image_size": settings.image_size,
    }


def _device(outcome: Outcome, device: PlanDevice) -> dict[str, Any]:
    known = not is_plenty(device.total)
    return {
        "name": device.name,
        "kind": device.kind,
        "total": device.total if known else None,
        "free": device.free if known else None,
        "planned": outcome.plan.on(device.name),
        "overflow": outcome.overflow.get(device.name, 0),
    }
