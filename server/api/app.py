"""create_app: the HTTP surface around an engine."""

from __future__ import annotations

from fastapi import FastAPI

from server import __version__
from server.api import errors
from server.api.anthropic import AnthropicErrors, anthropic_router
from server.api.chat import chat_router
from server.api.completions.router import completions_router
from server.api.docs_page import docs_router
from server.api.embeddings.router import embeddings_router
from server.api.engine import Engine
from server.api.file_store import FileStore
from server.api.files import files_router
from server.api.gate import Gate
from server.api.images import images_router
from server.api.input_tokens import input_tokens_router
from server.api.memory import memory_router
from server.api.models import models_router
from server.api.ops import ops_router
from server.api.options import ApiOptions
from server.api.pictures import PictureReader
from server.api.props import props_router
from server.api.request_log import RequestLog
from server.api.responses import responses_router
from server.api.services import Services, TemplateCache
from server.api.sources import SourceReader
from server.api.surround import surround
from server.api.texts import texts_router
from server.api.tracing import Tracing
from server.metrics import Metrics

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

    Its ``state.controls`` are for whoever runs it (server.api.surround).

    Raises:
        ConfigError: the file of API keys is wrong.
    """
    # The document is ours too: FastAPI's own could not see the bodies (server.api.openapi).
    app = FastAPI(
        title="llava-server",
        description=_DESCRIPTION,
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
    )
    services = _services(engine, options)
    for router in _ROUTERS:
        app.include_router(router(services))
    if options.docs:
        app.include_router(docs_router(app, keys=bool(options.api_keys or options.api_key_file)))
    errors.install(app, services.metrics)
    # The last one added is the outermost.
    app.state.controls = surround(app, services)
    app.add_middleware(
        RequestLog,
        metrics=services.metrics,
        model=_model_name(engine, options),
        tracing=tracing,
        options=options,
    )
    app.add_middleware(AnthropicErrors)
    return app


def _services(engine: Engine, options: ApiOptions) -> Services:
    metrics = Metrics(engine, _model_name(engine, options))
    files = FileStore(options.files_max_bytes, options.files_expire)
    return Services(
        engine=engine,
        options=options,
        metrics=metrics,
        pictures=PictureReader(options, SourceReader(options, files, metrics), metrics),
        templates=TemplateCache(options.chat_template),
        files=files,
        gate=_gate(engine, options),
    )


def _gate(engine: Engine, options: ApiOptions) -> Gate:
    def parallel() -> int:
        return engine.ready.parallel if engine.ready else 1

    body_bytes = _BODIES_AT_ONCE * options.max_body_bytes
    return Gate(options.max_queue, parallel, body_bytes, _PICTURE_BYTES)


def _model_name(engine: Engine, options: ApiOptions) -> str:
    """What the metrics are labelled with: the model's name in the API."""
    return options.model_alias or (engine.ready.model.name if engine.ready else "")
