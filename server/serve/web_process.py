"""The web process: all its parts, built in order, and their life from start to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

from server.api.app import Controls, create_app, create_ops_app
from server.engine_client.client import EngineClient
from server.engine_client.process import EngineProcess
from server.engine_client.requests import Requests
from server.engine_client.supervisor import EngineSupervisor
from server.errors import StartupError
from server.hub.resolve import ModelName, resolve
from server.messages import EngineReady
from server.serve.lifecycle import Life
from server.serve.listener import Listener, notify
from server.serve.progress import Downloads, show
from server.serve.startup_messages import announce, is_brief
from server.serve.web_server import WebOptions, WebServer
from server.serve.wiring import api_options, engine_limits, tracing, web_options
from server.settings.engine_config import engine_config
from server.settings.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class WebProcess:
    """Everything but the engine. ``early`` is an engine process that already loads the model."""

    def __init__(
        self,
        settings: Settings,
        model: ModelName,
        listener: Listener,
        ops_listener: Listener | None,
        early: EngineProcess | None = None,
    ) -> None:
        self._settings = settings
        self._early = early
        requests = Requests()
        self._supervisor = EngineSupervisor(requests, engine_limits(settings))
        engine = EngineClient(self._supervisor, requests, settings.max_tokens)
        self._traces = tracing(settings)
        app = create_app(engine, api_options(settings, model), self._traces)
        controls: Controls = app.state.controls
        self._served = controls.services.models.default
        self._decoders = controls.services.decoders
        self._servers = [WebServer(app, listener, web_options(settings))]
        reloads = (controls.keys.reload, self._servers[0].reload_certificate)
        self._life = Life(self._servers[0], controls.gate, settings.drain_timeout, reloads)
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
        decoders = asyncio.create_task(self._decoders.start())
        ending = asyncio.create_task(self._life.ending.wait())
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            decoders.cancel()
            ending.cancel()
            await self._stop()
        return 0

    async def _load_and_watch(self) -> None:
        bar = asyncio.create_task(show(self._supervisor))
        try:
            await self._load()
        finally:
            bar.cancel()
        self._accept(shared=True)
        ready = self._supervisor.ready
        assert ready is not None
        await self._served.template()
        self._announce(ready)
        notify("READY=1")
        reason = await self._supervisor.wait_failed()
        raise StartupError(f"the engine cannot be restarted: {reason.message}")

    async def _load(self) -> None:
        """Downloads what is missing, and starts the engine, unless it loads already."""
        early, self._early = self._early, None
        if early is not None:
            await self._supervisor.start(early.config, early)
            return
        downloads = Downloads(self._supervisor)
        model = await in_daemon_thread(lambda: resolve(self._settings, downloads))
        brief = is_brief(self._settings)
        config = engine_config(self._settings, model.model, model.mmproj, brief=brief)
        await self._supervisor.start(config)

    def _announce(self, ready: EngineReady) -> None:
        first, *ops = self._servers
        key = bool(self._settings.api_key or self._settings.api_key_file)
        url = f"{first.scheme}://{first.listener.url}"
        announce(ready, url, brief=is_brief(self._settings), key=key)
        for server in ops:
            logger.info("metrics on http://%s", server.listener.url)

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
        await self._decoders.stop()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)


def _keep_what_is_there() -> None:
    """Leaves what is loaded out of Python's garbage collections, which stop every request for a
    tenth of a second whenever some hundred connections have come.
    """
    gc.collect()
    gc.freeze()


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """The result of ``work``, whose thread does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run_it() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run_it, daemon=True).start()
    return await done
