"""GET /health and /metrics: for those who run the server."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from server.api.answers.ops import Healthy, Unhealthy
from server.api.engine import Engine
from server.api.errors import RETRY_SECONDS
from server.api.openapi import operation
from server.api.services import Services
from server.engine_state import EngineState

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
