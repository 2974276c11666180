"""``llava-server serve``: the web process from start to end."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import ExitStack, closing

from server.api.app import Controls, create_app, create_ops_app
from server.engine_client.client import EngineClient
from server.engine_client.requests import Requests
from server.engine_client.supervisor import EngineSupervisor
from server.errors import ConfigError, StartupError
from server.hub.resolve import ResolvedModel
from server.logs import configure_logging
from server.messages import EngineConfig, EngineReady
from server.serve.lifecycle import Life
from server.serve.listener import Listener, bind, inherited, notify, permit_files
from server.serve.startup_messages import announce, show
from server.serve.web_server import WebOptions, WebServer
from server.serve.wiring import api_options, engine_limits, tracing, web_options
from server.settings.engine_config import engine_config
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


class _WebProcess:
    """All parts of the web process, built in order, and their life from start to end."""

    def __init__(
        self,
        settings: Settings,
        model: ResolvedModel,
        listener: Listener,
        ops_listener: Listener | None,
    ) -> None:
        self._settings = settings
        self._model = model
        requests = Requests()
        self._supervisor = EngineSupervisor(requests, engine_limits(settings))
        engine = EngineClient(self._supervisor, requests, settings.max_tokens)
        self._traces = tracing(settings)
        app = create_app(engine, api_options(settings, model), self._traces)
        controls: Controls = app.state.controls
        self._served = controls.services.models.default
        self._servers = [WebServer(app, listener, web_options(settings))]
        self._life = Life(self._servers[0], controls.gate, settings.drain_timeout)
        self._life.on_reload(controls.keys.reload)
        self._life.on_reload(self._servers[0].reload_certificate)
        if ops_listener is not None:
            ops = create_ops_app(controls.services)
            self._servers.append(WebServer(ops, ops_listener, WebOptions()))
        self._running: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Serves until it is stopped.

        Raises:
            StartupError: the model cannot be loaded, or the engine was lost for good.
        """
        self._life.take_signals()
        _keep_what_is_there()
        # HTTP answers while the model loads: /health reports the progress. On a shared port the
        # other server answers until then.
        self._accept(shared=False)
        work = asyncio.create_task(self._load_and_watch())
        ending = asyncio.create_task(self._life.ending.wait())
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            ending.cancel()
            await self._stop()
        return 0

    async def _load_and_watch(self) -> None:
        config = engine_config(self._settings, self._model.model, self._model.mmproj)
        await _start(self._supervisor, config)
        self._accept(shared=True)
        ready = self._supervisor.ready
        assert ready is not None
        await self._served.template()
        _announce(ready, self._servers)
        notify("READY=1")
        reason = await self._supervisor.wait_failed()
        raise StartupError(f"the engine cannot be restarted: {reason.message}")

    def _accept(self, *, shared: bool) -> None:
        for server in self._servers:
            if server.listener.shared is shared:
                task = asyncio.create_task(server.run_until_stopped())
                task.add_done_callback(lambda _: self._life.ending.set())
                self._running.append(task)

    async def _stop(self) -> None:
        notify("STOPPING=1")
        for server in self._servers:
            server.stop()
        # Requests that still wait get their answer before the connections are closed.
        await self._supervisor.stop(**({"patience": 0.0} if self._life.hurried else {}))
        await asyncio.gather(*self._running)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)


async def _serve(
    settings: Settings, model: ResolvedModel, listener: Listener, ops_listener: Listener | None
) -> int:
    return await _WebProcess(settings, model, listener, ops_listener).run()


def _announce(ready: EngineReady, servers: list[WebServer]) -> None:
    first, *ops = servers
    announce(ready, f"{first.scheme}://{first.listener.url}")
    for server in ops:
        logger.info("metrics on http://%s", server.listener.url)


def _keep_what_is_there() -> None:
    """Leaves what is loaded out of Python's garbage collections, which stop every request for a
    tenth of a second whenever some hundred connections have come.
    """
    gc.collect()
    gc.freeze()


async def _start(supervisor: EngineSupervisor, config: EngineConfig) -> None:
    bar = asyncio.create_task(show(supervisor))
    try:
        await supervisor.start(config)
    finally:
        bar.cancel()
