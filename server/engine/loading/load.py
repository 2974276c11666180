"""Loading: fit, model, tower, context, warm-up, and the report of it all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from server.engine.core import EngineCore
from server.engine.llama.ggml import build_facts, list_devices
from server.engine.llama.log import LlamaLog
from server.engine.llama.rpc import add_rpc_servers, buffer_names
from server.engine.loading.loader import Exhausted, Handles, Loader, Progress, exhausted
from server.engine.request import Picture
from server.engine.runner import LlamaRunner
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.picture_queue import EncodeQueue
from server.engine.scheduling.prefix_cache import PrefixCache
from server.engine.scheduling.ram_store import PromptStore
from server.engine.scheduling.scheduler import Scheduler
from server.engine.scheduling.step import Pace
from server.engine.token_embeddings import most_rows, open_token_rows
from server.engine.vision.encoders import Encoders, ImageCache, make_encoders
from server.errors import ConfigError, OutOfMemory, StartupError
from server.memory.fit.fit import Fit, Fitted
from server.memory.fit.planner import Planner, make_fit
from server.memory.fit.pools import is_remote
from server.memory.fit.search_space import Placement
from server.memory.measured.live import measure_used
from server.memory.measured.report import format_report, make_report
from server.memory.measured.system import MemoryPeaks
from server.messages import BuildFacts, DeviceMemory, EngineConfig, EngineReady, MemoryReport

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedEngine:
    """All that the engine process owns; ``close`` frees it in the order that llama.cpp needs."""

    core: EngineCore
    ready: EngineReady
    handles: Handles
    encoders: Encoders | None

    def close(self) -> None:
        """Frees every handle."""
        if self.encoders is not None:
            self.encoders.close()
        self.handles.close()


def load(config: EngineConfig, report: Progress, post: Callable[[Any], None]) -> LoadedEngine:
    """Loads everything that ``config`` names, as far as the memory goes.

    ``report`` receives the progress; ``post`` puts a message to the engine's loop, from any
    thread.

    Raises:
        StartupError: a file cannot be loaded or does not fit; the message says which and why.
    """
    log = LlamaLog()
    try:
        return _load(config, log, report, post)
    except ConfigError:
        raise  # it names the flag, which says more than the log
    except StartupError as error:
        reason = log.last_error()
        raise type(error)(f"{error.message} ({reason})" if reason else error.message) from error
    finally:
        log.stop_keeping()


def _load(
    config: EngineConfig, log: LlamaLog, report: Progress, post: Callable[[Any], None]
) -> LoadedEngine:
    start = time.perf_counter()
    add_rpc_servers(config.memory.rpc)
    devices = list_devices()
    log.names = buffer_names(devices)
    build = _read_build(devices)
    fit, planner = make_fit(config, devices)
    fitted, handles = _open_fitted(config, fit, planner, log, report)
    memory = _report(handles, fit, fitted, devices, planner)
    config = handles.config
    parts = handles.model, handles.context, handles.tower
    n_batch, n_ubatch = config.batch_size, config.ubatch_size
    token_rows = open_token_rows(*parts, n_batch)
    store = _make_store(memory, handles.context.n_ctx)
    runner = LlamaRunner(
        *parts, n_batch=n_batch, n_ubatch=n_ubatch, token_rows=token_rows, store=store
    )
    ready = EngineReady(
        model=handles.model.facts(handles.context.n_ctx, runner.n_ctx_seq),
        vision=handles.vision,
        memory=memory,
        build=build,
        load_seconds=time.perf_counter() - start,
        pid=os.getpid(),
        parallel=fitted.placement.parallel,
    )
    one_batch = most_rows(memory, n_batch) if token_rows else 0
    scheduler = _make_scheduler(fitted.placement, handles, one_batch, store)
    tower, cuts = handles.tower, handles.cuts
    encoders = make_encoders(config, tower, cuts, build, post) if tower else None
    core = _make_core(config, runner, scheduler, encoders)
    here = [device for device in devices if not is_remote(device)]
    core.memory_peaks = MemoryPeaks(here, partial(list_devices, remote=False))
    return LoadedEngine(core, ready, handles, encoders)


def _report(
    handles: Handles, fit: Fit, fitted: Fitted, before: tuple[DeviceMemory, ...], planner: Planner
) -> MemoryReport:
    report = make_report(
        handles.lines,
        measure_used(before, list_devices()),
        planner.whole_plan(fitted.placement, fit.pools).parts,
        handles.model.n_layer + 1,
        model_size=planner.weight_bytes(fitted.placement),
        decisions=fitted.decisions,
        margins=tuple((pool.devices[0], pool.margin) for pool in fit.pools),
        tower=handles.tower.memory() if handles.tower else {},
    )
    for line in format_report(report):
        logger.info("%s", line)
    return report


def _read_build(devices: tuple[DeviceMemory, ...]) -> BuildFacts:
    build = build_facts(devices)
    names = ", ".join(build.backends)
    logger.info("llama-cpp-python %s, devices: %s", build.llama_cpp_python, names)
    return build


def _open_fitted(
    config: EngineConfig, fit: Fit, planner: Planner, log: LlamaLog, report: Progress
) -> tuple[Fitted, Handles]:
    """Loads what fits; where it does not after all, once more with the next smaller plan."""
    fitted = fit.best() if config.memory.fit else fit.unfitted()
    _log_decisions(fitted)
    loader = Loader(config, planner.gpus, log, report)
    try:
        return fitted, loader.open(fitted.placement)
    except OutOfMemory as error:
        if not config.memory.fit:
            raise
        kind = exhausted(log.lines)
        smaller = fit.smaller(fitted.placement, on_gpu=kind is Exhausted.GPU)
        if smaller is None:
            raise
        logger.error("%s; LOADING ONCE MORE WITH A SMALLER PLAN", error.message)
        log.forget()
        _log_decisions(smaller)
        return smaller, loader.open(smaller.placement)


def _log_decisions(fitted: Fitted) -> None:
    for decision in fitted.decisions:
        logger.info("fit: %s %s (%s)", decision.setting, decision.value, decision.reason)


def _make_core(
    config: EngineConfig, runner: LlamaRunner, scheduler: Scheduler, encoders: Encoders | None
) -> EngineCore:
    images = ImageCache(config.image_cache_bytes, encoders.keep if encoders else None)
    return EngineCore(runner, scheduler, images, encoders.submit if encoders else _no_tower)


def _no_tower(_pictures: list[Picture]) -> None:
    raise RuntimeError("a picture was admitted without a vision tower")


def _make_store(memory: MemoryReport, n_ctx: int) -> PromptStore:
    cells = sum(part.measured or 0 for part in memory.parts if part.part == "kv_cache")
    most = sum(part.predicted or 0 for part in memory.parts if part.part == "prompt_cache")
    return PromptStore(most, max(cells // n_ctx, 1))


def _make_scheduler(
    placement: Placement, handles: Handles, one_batch: int, store: PromptStore
) -> Scheduler:
    config, tower, model = handles.config, handles.tower, handles.model
    prefixes = PrefixCache(
        model.window,
        model.shares_prefixes,
        0 if handles.shift.refusal else config.cache_reuse,
        handles.shift.seconds,
        config.prefix_cache_cells,
        store,
    )
    return Scheduler(
        KVCache(placement.sequences(config.batch_size), handles.context.n_ctx),
        config.batch_size,
        placement.parallel,
        Pace(config.itl_target, handles.speed),
        prefixes=prefixes,
        encodes=EncodeQueue(tower.batch_tokens if tower else 0),
        # llama_decode aborts where more than a micro-batch is to be attended to at once.
        n_pictures=config.ubatch_size if tower and tower.whole else config.batch_size,
        one_batch=one_batch,
    )
