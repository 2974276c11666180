"""``llava-server serve``: the web process from start to end."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import ExitStack, closing

from server.api.app import Controls, create_app, create_ops_app
from server.engine_client.client import EngineClient
from server.errors import ConfigError
from server.hub.resolve import ResolvedModel
from server.logs import configure_logging
from server.messages import EngineReady
from server.serve.lifecycle import Life
from server.serve.listener import Listener, bind, inherited, notify, permit_files
from server.serve.startup_messages import announce, show
from server.serve.web_server import WebOptions, WebServer
from server.serve.wiring import api_options, engine_config, engine_limits, tracing, web_options
from server.settings.settings import Settings

logger = logging.getLogger(__name__)


def run(settings: Settings, model: ResolvedModel) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Raises:
        StartupError: the port is taken, or the model cannot be loaded.
        ConfigError: a setting is wrong, or would let everybody in.
    """
    configure_logging(settings.log_level, settings.log_format)
    permit_files(settings.max_connections)
    with ExitStack() as stack:
        # Bound before anything is loaded: a taken port is told at once, not after a minute.
        listener = inherited() or bind(settings.host, settings.port, reuse_port=settings.reuse_port)
        stack.enter_context(closing(listener))
        refuse_exposure(settings, listener)
        ops = None
        if settings.metrics_port is not None:
            ops = bind(settings.host, settings.metrics_port, reuse_port=settings.reuse_port)
            stack.enter_context(closing(ops))
        return asyncio.run(_serve(settings, model, listener, ops))


def refuse_exposure(settings: Settings, listener: Listener) -> None:
    """Raise ConfigError where anybody who can reach this machine could use the model."""
    if listener.public and not (settings.api_key or settings.api_key_file or settings.insecure):
        raise ConfigError(
            f"{listener.url} can be reached from other machines: set --api-key or --api-key-file,"
            " or say --insecure to let everybody in"
        )


async def _serve(
    settings: Settings, model: ResolvedModel, listener: Listener, ops_listener: Listener | None
) -> int:
    engine = EngineClient(engine_config(settings, model), engine_limits(settings))
    traces = tracing(settings)
    app = create_app(engine, api_options(settings, model), traces)
    controls: Controls = app.state.controls
    servers = [WebServer(app, listener, web_options(settings))]
    life = _live(servers[0], controls, settings)
    if ops_listener is not None:
        servers.append(WebServer(create_ops_app(controls.services), ops_listener, WebOptions()))
    _keep_what_is_there()
    # HTTP answers while the model loads: /health tells how far it is. On a port that is shared
    # the other one answers until then.
    running = [_run(server) for server in servers if not server.listener.shared]
    start, ending = asyncio.create_task(_start(engine)), asyncio.create_task(life.ending.wait())
    try:
        await asyncio.wait({start, ending, *running}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            running += [_run(server) for server in servers if server.listener.shared]
            assert engine.ready is not None
            await controls.services.templates.get(engine.ready.model)
            _announce(engine.ready, servers)
            notify("READY=1")
            await asyncio.wait({ending, *running}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        notify("STOPPING=1")
        for task in (start, ending):
            task.cancel()
        for server in servers:
            server.stop()
        # Whoever still waits is told before the connections are closed.
        await engine.stop(**({"patience": 0.0} if life.hurried else {}))
        await asyncio.gather(*running)
        if traces is not None:
            await asyncio.to_thread(traces.close)
    return 0


def _announce(ready: EngineReady, servers: list[WebServer]) -> None:
    first, *ops = servers
    announce(ready, f"{first.scheme}://{first.listener.url}")
    for server in ops:
        logger.info("metrics on http://%s", server.listener.url)


def _keep_what_is_there() -> None:
    """Leaves it out of Python's garbage collections, for which everybody waits: a tenth of a
    second, whenever some hundred connections had come.
    """
    gc.collect()
    gc.freeze()


def _live(server: WebServer, controls: Controls, settings: Settings) -> Life:
    life = Life(server, controls.gate, settings.drain_timeout)
    life.on_reload(controls.keys.reload)
    life.on_reload(server.reload_certificate)
    life.take_signals()
    return life


def _run(server: WebServer) -> asyncio.Task[None]:
    return asyncio.create_task(server.run_until_stopped())


async def _start(engine: EngineClient) -> None:
    bar = asyncio.create_task(show(engine))
    try:
        await engine.start()
    finally:
        bar.cancel()
