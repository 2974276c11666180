"""The operator's endpoints alone, for a port that the public does not reach."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from server import __version__
from server.api import errors
from server.api.headers import SecurityHeaders
from server.api.ops import add_health, add_metrics
from server.api.services import Services


def create_ops_app(services: Services) -> FastAPI:
    """/health, /health/ready and /metrics, without a key."""
    app = FastAPI(title="llava-server", version=__version__, openapi_url=None)
    router = APIRouter()
    add_health(router, services)
    add_metrics(router, services.metrics)
    app.include_router(router)
    errors.install(app, services.metrics)
    app.add_middleware(SecurityHeaders)
    return app
