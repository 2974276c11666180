"""create_app: the HTTP surface around an engine."""

from __future__ import annotations

from fastapi import FastAPI

from server import __version__
from server.api import errors
from server.api.anthropic import AnthropicErrors, anthropic_router
from server.api.chat import chat_router
from server.api.completions.router import completions_router
from server.api.docs_page import docs_router
from server.api.engine import Engine
from server.api.file_store import FileStore
from server.api.files import files_router
from server.api.gate import Deadline
from server.api.images import images_router
from server.api.input_tokens import input_tokens_router
from server.api.memory import memory_router
from server.api.middleware import ApiKey
from server.api.models import models_router
from server.api.ops import ops_router
from server.api.options import ApiOptions
from server.api.pictures import PictureReader
from server.api.props import props_router
from server.api.request_log import RequestLog
from server.api.responses import responses_router
from server.api.services import Services, TemplateCache
from server.api.sources import SourceReader
from server.api.texts import texts_router
from server.api.tracing import Tracing
from server.metrics import Metrics

_DESCRIPTION = (
    "Chat with pictures, in OpenAI's API and with llama.cpp's extras. Errors have OpenAI's shape"
    " on every path; `code` is for programs to read and `param` names the field."
)

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
    texts_router,
    props_router,
)


def create_app(engine: Engine, options: ApiOptions, tracing: Tracing | None = None) -> FastAPI:
    """The app. It starts nothing and stops nothing: the engine belongs to the caller."""
    # The document is ours too: FastAPI's own could not see the bodies (server.api.openapi).
    app = FastAPI(
        title="llava-server",
        description=_DESCRIPTION,
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
    )
    model = _model_name(engine, options)
    metrics = Metrics(engine, model)
    files = FileStore(options.files_max_bytes, options.files_expire)
    services = Services(
        engine=engine,
        options=options,
        metrics=metrics,
        pictures=PictureReader(options, SourceReader(options, files, metrics), metrics),
        templates=TemplateCache(options.chat_template),
        files=files,
    )
    for router in _ROUTERS:
        app.include_router(router(services))
    if options.docs:
        app.include_router(docs_router(app, keys=bool(options.api_keys)))
    errors.install(app, metrics)
    # The last one added is the outermost.
    if options.request_timeout:
        app.add_middleware(Deadline, seconds=options.request_timeout)
    if options.api_keys:
        app.add_middleware(ApiKey, keys=options.api_keys, metrics=metrics)
    app.add_middleware(RequestLog, metrics=metrics, model=model, tracing=tracing, options=options)
    app.add_middleware(AnthropicErrors)
    return app


def _model_name(engine: Engine, options: ApiOptions) -> str:
    """What the metrics are labelled with: the model's name in the API."""
    return options.model_alias or (engine.ready.model.name if engine.ready else "")
