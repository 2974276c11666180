"""GET /v1/memory: what the model takes, where, and why it was placed so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from anyio import to_thread
from fastapi import APIRouter

from server.api.generate.services import Services
from server.api.http.openapi import operation
from server.api.shapes.operator import Memory
from server.memory.measured.live import LiveDevice, LiveMemory, live_memory, nvml
from server.messages import EngineReady, MemoryPart


def memory_router(services: Services) -> APIRouter:
    """The memory endpoint. It does not wait for the engine."""
    router = APIRouter()

    @router.get(
        "/v1/memory",
        **operation("Where the memory went", "server", answer=Memory, errors=(503,)),
    )
    async def memory() -> dict[str, Any]:
        model = services.models.default
        ready, stats = model.facts, model.engine.stats
        # A driver may be slow to answer; the event loop must not wait for it.
        live = await to_thread.run_sync(lambda: live_memory(ready, stats, nvml()))
        return memory_json(ready, live)

    return router


def memory_json(ready: EngineReady, live: LiveMemory) -> dict[str, Any]:
    """The answer; bytes everywhere."""
    report = ready.memory
    return {
        "object": "memory",
        "devices": [_device(device) for device in live.devices],
        "parts": [asdict(part) for part in live.parts],
        "planned": _by_device(live.parts, "predicted"),
        "allocated": _by_device(live.parts, "measured"),
        "layers": report.layers,
        "layers_offloaded": report.layers_offloaded,
        "encoder": report.encoder or None,
        "cells": {
            "total": live.cells_total,
            "used": live.cells_used,
            "free": live.cells_total - live.cells_used,
        },
        "parallel": ready.parallel,
        "margins": dict(report.margins),
        "decisions": [asdict(decision) for decision in report.decisions],
        "processes": {
            "engine": asdict(live.engine) if live.engine else None,
            "web": asdict(live.web) if live.web else None,
        },
    }


def _device(device: LiveDevice) -> dict[str, Any]:
    extra = {"utilization": device.utilization, "temperature": device.temperature}
    return {**asdict(device.memory), **extra}


def _by_device(parts: Iterable[MemoryPart], field: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    for part in parts:
        totals[part.device] = totals.get(part.device, 0) + (getattr(part, field) or 0)
    return totals
