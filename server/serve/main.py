"""``llava-server serve``: binds the port, starts the engine, and runs the web process."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from contextlib import ExitStack, closing, suppress

from server.engine_client.process import EngineProcess
from server.errors import ConfigError
from server.hub.resolve import ModelName, on_this_machine
from server.serve.listener import Listener, bind, inherited, permit_files
from server.serve.startup_messages import is_brief
from server.settings.engine_config import engine_config
from server.settings.settings import Settings

logger = logging.getLogger(__name__)


def run(settings: Settings, model: ModelName) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code. Downloads what is missing of it.

    Raises:
        StartupError: the port is taken, or the model cannot be loaded.
        ConfigError: a setting is wrong, or would let in every client.
    """
    permit_files(settings.max_connections)
    with ExitStack() as stack:
        # Bound before anything is loaded: a port in use is reported at once, not after a minute.
        listener = inherited() or bind(settings.host, settings.port, reuse_port=settings.reuse_port)
        stack.enter_context(closing(listener))
        refuse_exposure(settings, listener)
        check_image_cache_dir(settings)
        ops = None
        if settings.metrics_port is not None:
            ops = bind(settings.host, settings.metrics_port, reuse_port=settings.reuse_port)
            stack.enter_context(closing(ops))
        if not is_brief(settings):
            logger.info("listening on %s; /health reports the progress", listener.url)
        early = start_early(settings)
        if early is not None:
            stack.callback(early.stop, 0.0)
        # Imported late: it takes as long as a small model takes to load.
        from server.serve.web_process import WebProcess  # noqa: PLC0415

        async def serve() -> int:
            return await WebProcess(settings, model, listener, ops, early).run()

        code = asyncio.run(serve())
        logger.info("stopped")
        return code


def refuse_exposure(settings: Settings, listener: Listener) -> None:
    """Raise ConfigError if other machines could use the model without a key."""
    if listener.public and not (settings.api_key or settings.api_key_file or settings.insecure):
        raise ConfigError(
            f"{listener.url} can be reached from other machines: set --api-key or --api-key-file,"
            " or --insecure to allow everyone"
        )


def check_image_cache_dir(settings: Settings) -> None:
    """Raise ConfigError where encoded pictures cannot be kept, before a model is downloaded."""
    folder = settings.image_cache_dir
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--image-cache-dir: cannot use {folder}: {error.strerror or error}"
        ) from error


def start_early(settings: Settings) -> EngineProcess | None:
    """An engine that loads the model while this process imports the web framework.

    None where files are to be downloaded first, or where the system gives no process now: the
    supervisor tries again, and reports why.
    """
    found = on_this_machine(settings)
    if found is None:
        return None
    brief = is_brief(settings)
    config = engine_config(settings, found.model, found.mmproj, brief=brief)
    with suppress(OSError, RuntimeError):
        return EngineProcess(config)
    return None
