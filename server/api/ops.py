"""GET /health, /metrics and /v1/memory: for those who run the server."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from server.api.answers.ops import Healthy, Memory, Unhealthy
from server.api.engine import Engine
from server.api.errors import RETRY_SECONDS
from server.api.openapi import operation
from server.api.services import Services
from server.engine_state import EngineState
from server.errors import EngineUnavailable
from server.messages import MemoryReport

_WORDS = {
    EngineState.STARTING: ("loading", "Loading model"),
    EngineState.RESTARTING: ("restarting", "Restarting the engine"),
    EngineState.FAILED: ("failed", "The engine cannot be started"),
}
_UNHEALTHY = {503: Unhealthy}


def ops_router(services: Services) -> APIRouter:
    """The operator's endpoints. None of them waits for the engine."""
    router = APIRouter()

    @router.get(
        "/health",
        **operation("Whether requests can come", "server", answer=Healthy, others=_UNHEALTHY),
    )
    async def health() -> Response:
        return _health(services.engine)

    @router.get("/metrics", **operation("Prometheus metrics", "server", text="text/plain"))
    async def metrics() -> Response:
        return Response(services.metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @router.get(
        "/v1/memory",
        **operation("Where the memory went", "server", answer=Memory, errors=(503,)),
    )
    async def memory() -> dict[str, Any]:
        ready = services.engine.ready
        if ready is None:
            raise EngineUnavailable("the model is still loading; try again in a moment")
        return _memory(ready.memory)

    return router


def _health(engine: Engine) -> Response:
    if engine.state is EngineState.READY:
        return JSONResponse({"status": "ok"})
    word, message = _WORDS[engine.state]
    progress = engine.progress
    return JSONResponse(
        {
            "status": word,
            "progress": asdict(progress) if progress else None,
            # llama-server's words, for probes that were written for it.
            "error": {"code": 503, "message": message, "type": "unavailable_error"},
        },
        status_code=503,
        headers={"retry-after": str(RETRY_SECONDS)},
    )


def _memory(report: MemoryReport) -> dict[str, Any]:
    totals: defaultdict[str, int] = defaultdict(int)
    for part in report.parts:
        totals[part.device] += part.bytes
    return {"object": "memory", **asdict(report), "allocated": dict(totals)}
