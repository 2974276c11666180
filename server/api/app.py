"""create_app: the HTTP surface around an engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from server import __version__
from server.api.anthropic import anthropic_router
from server.api.generate.pictures import PictureReader, SourceReader
from server.api.generate.services import Models, ServedModel, Services
from server.api.generate.upload_store import FileStore
from server.api.http import errors
from server.api.http.openapi import docs_router
from server.api.llama_server.props import props_router
from server.api.llama_server.tokenize import texts_router
from server.api.middleware.admission import Gate, GateKeeper
from server.api.middleware.auth import Access, KeyRing
from server.api.middleware.paths import Paths
from server.api.middleware.rate_limits import Rates
from server.api.middleware.request_log import RequestLog
from server.api.middleware.security_headers import SecurityHeaders
from server.api.middleware.tracing import Tracing
from server.api.openai.chat import chat_router, input_tokens_router
from server.api.openai.completions import completions_router
from server.api.openai.embeddings import embeddings_router
from server.api.openai.files import files_router
from server.api.openai.models import models_router
from server.api.operator.health import add_health, add_metrics, ops_router
from server.api.operator.inspect import images_router
from server.api.operator.memory import memory_router
from server.api.options import ApiOptions
from server.api.page import page_router
from server.api.responses import responses_router
from server.decoders.pool import DecoderPool
from server.engine_client.interface import Engine
from server.fair_queue import FairThreads
from server.images.prepared import JOBS
from server.metrics import Metrics
from server.settings.key_file import read_keys


def create_ops_app(services: Services) -> FastAPI:
    """/health and its like, and /metrics, without a key."""
    around = [Middleware(Paths), Middleware(SecurityHeaders)]
    app = FastAPI(title="llava-server", version=__version__, openapi_url=None, middleware=around)
    router = APIRouter()
    add_health(router, services)
    add_metrics(router, services.metrics)
    app.include_router(router)
    errors.install(app, services.metrics)
    return app


@dataclass(slots=True, frozen=True)
class Controls:
    """The app's handles: who may enter, how many are in, and what the endpoints share."""

    keys: KeyRing
    gate: Gate
    services: Services


def middleware(services: Services, keys: KeyRing, tracing: Tracing | None) -> list[Middleware]:
    """What a request passes on its way to an endpoint, the outermost first."""
    options, metrics = services.options, services.metrics
    rates = options.caller.rate or options.caller.concurrency or options.api_key_file
    browsers = Middleware(
        CORSMiddleware,
        allow_origins=options.cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
    )
    return [
        Middleware(Paths),
        Middleware(
            RequestLog,
            metrics=metrics,
            model=services.models.default.name,
            tracing=tracing,
            options=options,
        ),
        Middleware(SecurityHeaders),
        # Outside of the keys: browsers ask whether they may ask without one.
        *([browsers] if options.cors_origins else []),
        *([Middleware(Access, keys=keys, metrics=metrics)] if keys.needed else []),
        *([Middleware(Rates, limits=options.caller, metrics=metrics)] if rates else []),
        Middleware(
            GateKeeper,
            gate=services.gate,
            metrics=metrics,
            seconds=options.request_timeout,
            fair_threads=services.threads,
        ),
    ]


# What pages of other sites may read of our headers.
_EXPOSED = (
    "x-request-id",
    "x-llava-ignored",
    "request-id",
    "retry-after",
    "x-llava-relaxed",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)

_DESCRIPTION = (
    "Chat with pictures, in OpenAI's API and with llama.cpp's extras. Errors have OpenAI's shape"
    " on every path; `code` is for programs to read and `param` names the field."
)

# Bodies of the largest size that may be held at the same time; most are far smaller.
_BODIES_AT_ONCE = 8
# Of prepared pictures that requests have, which the engine gets a copy of: 3,000 of LLaVA-1.5's.
_PICTURE_BYTES = 1024**3

_ROUTERS = (
    chat_router,
    input_tokens_router,
    responses_router,
    anthropic_router,
    files_router,
    images_router,
    models_router,
    ops_router,
    memory_router,
    completions_router,
    embeddings_router,
    texts_router,
    props_router,
)


def create_app(engine: Engine, options: ApiOptions, tracing: Tracing | None = None) -> FastAPI:
    """The app. It starts nothing and stops nothing: the engine belongs to the caller.

    ``state.controls`` are for the code that runs it (server.serve.web_process).

    Raises:
        ConfigError: the file of API keys is wrong.
    """
    services = _services(engine, options)
    path = options.api_key_file
    keys = KeyRing(options.api_keys, partial(read_keys, path) if path else None)
    # The document is ours too: FastAPI's own could not see the bodies (server.api.http.openapi).
    app = FastAPI(
        title="llava-server",
        description=_DESCRIPTION,
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        middleware=middleware(services, keys, tracing),
    )
    for router in _ROUTERS:
        app.include_router(router(services))
    if options.page:
        app.include_router(page_router())
    if options.docs:
        app.include_router(docs_router(app, keys=keys.needed))
    errors.install(app, services.metrics)
    app.state.controls = Controls(keys, services.gate, services)
    return app


def _services(engine: Engine, options: ApiOptions) -> Services:
    model = ServedModel(engine, options.model_alias, options.chat_template)
    metrics = Metrics(engine, model.name)
    files = FileStore(options.files_max_bytes, options.files_expire)
    decoders = DecoderPool(
        options.decoding, options.image_decoders, (JOBS,), metrics.decoders, engine.usage
    )
    return Services(
        models=Models(model),
        options=options,
        metrics=metrics,
        pictures=PictureReader(options, SourceReader(options, files, metrics), decoders, metrics),
        decoders=decoders,
        threads=FairThreads(engine.usage),
        files=files,
        gate=Gate(
            options.max_queue,
            model.parallel,
            _BODIES_AT_ONCE * options.max_body_bytes,
            _PICTURE_BYTES,
        ),
    )
