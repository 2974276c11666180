"""The first engine starts before the web process is imported: both take seconds, on two cores."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from server.engine_client.process import EngineProcess
from server.hub.resolve import ResolvedModel, on_this_machine
from server.messages import EngineConfig
from server.serve.startup_messages import is_brief
from server.settings.engine_config import engine_config
from server.settings.settings import Settings


def start_config(settings: Settings, found: ResolvedModel) -> EngineConfig:
    """What ``serve`` starts its engine with."""
    config = engine_config(settings, found.model, found.mmproj)
    return replace(config, brief=is_brief(settings))


def start_early(settings: Settings) -> EngineProcess | None:
    """An engine that loads the model while this process imports the web framework.

    None where files are to be downloaded first, or where the system gives no process now: the
    supervisor tries again, and reports why.
    """
    found = on_this_machine(settings)
    if found is None:
        return None
    with suppress(OSError, RuntimeError):
        return EngineProcess(start_config(settings, found))
    return None
