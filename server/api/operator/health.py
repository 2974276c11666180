"""GET /health, /health/live, /health/ready and /metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from server import __version__
from server.api.generate.services import Services
from server.api.http.errors import RETRY_SECONDS
from server.api.http.openapi import operation
from server.api.shapes.operator import Healthy, Ready, Unhealthy, Version
from server.engine_client.interface import Engine, EngineState
from server.metrics import Metrics

_WORDS = {
    EngineState.STARTING: "loading",
    EngineState.READY: "ok",
    EngineState.RESTARTING: "restarting",
    EngineState.FAILED: "failed",
}
_MESSAGES = {
    "loading": "Loading model",
    "restarting": "Restarting the engine",
    "draining": "Shutting down",
    "failed": "The engine cannot be started",
}
_UNHEALTHY = {503: Unhealthy}


def ops_router(services: Services) -> APIRouter:
    """The operator's endpoints. None of them waits for the engine."""
    router = APIRouter()

    add_health(router, services)

    @router.get("/version", **operation("The server's version", "server", answer=Version))
    async def version() -> dict[str, str]:
        return {"version": __version__}

    if services.options.serve_metrics:
        add_metrics(router, services.metrics)

    return router


def add_metrics(router: APIRouter, metrics: Metrics) -> None:
    """GET /metrics."""

    @router.get("/metrics", **operation("Prometheus metrics", "server", text="text/plain"))
    async def render() -> Response:
        # Some 15 ms of Python and /proc: not on the event loop.
        text = await to_thread.run_sync(metrics.render)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def add_health(router: APIRouter, services: Services) -> None:
    """GET /health as llama-server has it, and what probes of orchestrators ask."""
    _add_live(router, services)
    _add_ready(router, services)

    @router.get(
        "/health",
        **operation("Whether the server lives", "server", answer=Healthy, others=_UNHEALTHY),
    )
    async def health() -> Response:
        word = _word(services)
        if word in ("ok", "restarting", "draining"):
            progress = _progress(services.models.default.engine)
            return JSONResponse({"status": word, **({"progress": progress} if progress else {})})
        return _unhealthy(services.models.default.engine, word)


def _add_live(router: APIRouter, services: Services) -> None:
    @router.get(
        "/health/live",
        **operation(
            "Whether the process should be kept: false only once the engine was given up",
            "server",
            answer=Healthy,
            others=_UNHEALTHY,
        ),
    )
    async def live() -> Response:
        word = _word(services)
        if word == "failed":
            return _unhealthy(services.models.default.engine, word)
        return JSONResponse({"status": word})


def _add_ready(router: APIRouter, services: Services) -> None:
    @router.get(
        "/health/ready",
        **operation("Whether requests are served now", "server", answer=Ready, others=_UNHEALTHY),
    )
    async def ready() -> Response:
        word, engine = _word(services), services.models.default.engine
        if word != "ok":
            return _unhealthy(engine, word)
        found = {
            "status": word,
            "step_age": engine.step_age,
            "requests_running": engine.stats.num_running,
            "requests_waiting": engine.stats.num_waiting,
        }
        return JSONResponse(found)


def _word(services: Services) -> str:
    if services.gate.draining:
        return "draining"
    return _WORDS[services.models.default.engine.state]


def _progress(engine: Engine) -> dict[str, Any] | None:
    found = asdict(engine.progress) if engine.progress else None
    if found and not found["file"]:
        del found["file"]
    return found


def _unhealthy(engine: Engine, word: str) -> Response:
    # llama-server's words, for probes that were written for it.
    error = {"code": 503, "message": _MESSAGES[word], "type": "unavailable_error"}
    found = {
        "status": word,
        "progress": _progress(engine),
        "step_age": engine.step_age,
        "error": error,
    }
    return JSONResponse(found, status_code=503, headers={"retry-after": str(RETRY_SECONDS)})
