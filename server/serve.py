"""``llava-server serve``: the web process from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn

from server.api.app import create_app
from server.config import Settings
from server.engine_client import EngineClient
from server.errors import StartupError
from server.http_protocol import HttpProtocol
from server.hub import ResolvedModel
from server.logs import configure_logging
from server.messages import EngineReady, VisionFacts
from server.wiring import api_options, engine_config, engine_limits, tracing

logger = logging.getLogger(__name__)

# Seconds that running replies get to finish once the server is told to stop.
GRACE_SECONDS = 5


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: they would raise the signal again on the way out."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings, model: ResolvedModel) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Raises:
        StartupError: the port is taken, or the model cannot be loaded.
    """
    configure_logging(settings.log_level, settings.log_format)
    # Bound before anything is loaded: a taken port is told at once, not after a minute.
    with _bind(settings.host, settings.port) as listener:
        return asyncio.run(_serve(settings, model, listener))


async def _serve(settings: Settings, model: ResolvedModel, listener: socket.socket) -> int:
    engine = EngineClient(engine_config(settings, model), engine_limits(settings))
    traces = tracing(settings)
    app = create_app(engine, api_options(settings, model), traces)
    server = _Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    _stop_on_signals(server)
    # HTTP answers while the model loads: /health tells how far it is.
    http = asyncio.create_task(server.serve(sockets=[listener]))
    start = asyncio.create_task(engine.start())
    try:
        await asyncio.wait({http, start}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            assert engine.ready is not None
            _announce(engine.ready, listener)
        await http
    finally:
        start.cancel()
        server.should_exit = True
        await engine.stop()
        await http
        if traces is not None:
            await asyncio.to_thread(traces.close)
    return 0


def _stop_on_signals(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.force_exit = server.should_exit  # the second signal waits for nobody
        server.should_exit = True

    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartupError(f"cannot listen on {host} port {port}: {reason}") from error
    return listener


def _announce(ready: EngineReady, listener: socket.socket) -> None:
    model, vision = ready.model, ready.vision
    logger.info(
        "%s: %s, %d cells for %d sequences, loaded in %.1f s",
        *(model.name, model.description, model.n_ctx, ready.parallel, ready.load_seconds),
    )
    if vision is None:
        logger.info("no mmproj: text only")
    else:
        _announce_tower(vision)
    host, port = listener.getsockname()[:2]
    logger.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def _announce_tower(vision: VisionFacts) -> None:
    shapes = ", ".join(f"{width}x{height}" for width, height in vision.pinpoints)
    logger.info(
        "vision tower: %dx%d pixels, patch %d, %d tokens a %s, on %s%s",
        *(vision.image_size, vision.image_size, vision.patch_size),
        *(vision.tokens_per_image, "square" if vision.tiled else "picture", vision.backend),
        f"; an overview and tiles of {shapes}" if shapes else "",
    )
    if vision.non_causal:
        logger.info(
            "pictures are attended to in both directions: each is computed in one batch, of up to"
            " %d tokens, which the latency bound cannot divide",
            vision.largest_picture,
        )
    if vision.batch_tokens:
        logger.info("pictures are encoded together, up to %d tokens", vision.batch_tokens)
