"""Loading: model, self-test and repair of the tower, cache, warm-up, and the report of it all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from server.engine.bindings.context import Batch, Context
from server.engine.bindings.devices import build_facts, list_devices
from server.engine.bindings.log import LlamaLog
from server.engine.bindings.model import Model
from server.engine.core import EngineCore
from server.engine.kv import KVCache
from server.engine.runner import LlamaRunner
from server.engine.scheduler import Scheduler
from server.engine.vision import VisionEncoder, load_vision
from server.errors import StartupError
from server.memory.report import format_report, read_report, tower_backend
from server.messages import EngineConfig, EngineProgress, EngineReady

logger = logging.getLogger(__name__)

# Cells for --ctx-size 0: enough for a few conversations with pictures, 4 GiB for a 7B LLaVA.
DEFAULT_CTX = 8192


@dataclass(slots=True)
class LoadedEngine:
    """All that the engine process owns; ``close`` frees it in the order that llama.cpp wants."""

    core: EngineCore
    ready: EngineReady
    model: Model
    context: Context
    encoder: VisionEncoder | None

    def close(self) -> None:
        """Frees every handle."""
        if self.encoder is not None:
            self.encoder.close()
        self.context.close()
        self.model.close()


def load(config: EngineConfig, report: Callable[[EngineProgress], None]) -> LoadedEngine:
    """Loads everything that ``config`` names.

    Raises:
        StartupError: a file cannot be loaded or does not fit; the message says which and why.
    """
    log = LlamaLog()
    try:
        return _load(config, log, report)
    except StartupError as error:
        reason = log.last_error()
        raise type(error)(f"{error.message} ({reason})" if reason else error.message) from error
    finally:
        log.stop_keeping()


def _load(
    config: EngineConfig, log: LlamaLog, report: Callable[[EngineProgress], None]
) -> LoadedEngine:
    start = time.perf_counter()
    build = build_facts()
    logger.info(
        "llama-cpp-python %s, devices: %s", build.llama_cpp_python, ", ".join(build.backends)
    )
    devices = list_devices()
    model = Model(
        config.model, config.n_gpu_layers, lambda done: report(EngineProgress("weights", done))
    )
    lines = log.take()
    report(EngineProgress("vision tower", 0.0))
    encoder = load_vision(config, model)
    tower_lines = log.take()
    report(EngineProgress("context", 0.0))
    context = _make_context(config, model)
    report(EngineProgress("warm-up", 0.0))
    _warm_up(context, model, config.batch_size)
    lines += _after_self_test(tower_lines) + log.take()
    runner = LlamaRunner(model, context, encoder, n_batch=config.batch_size)
    memory = read_report(lines, devices, model.n_layer + 1)
    ready = EngineReady(
        model=model.facts(context.n_ctx, runner.n_ctx_seq),
        vision=encoder.facts(tower_backend(tower_lines)) if encoder else None,
        memory=memory,
        build=build,
        load_seconds=time.perf_counter() - start,
        pid=os.getpid(),
    )
    for line in format_report(memory):
        logger.info("%s", line)
    core = EngineCore(runner, Scheduler(KVCache(config.parallel, context.n_ctx), config.batch_size))
    return LoadedEngine(core, ready, model, context, encoder)


def _make_context(config: EngineConfig, model: Model) -> Context:
    return Context(
        model,
        n_ctx=config.ctx_size or DEFAULT_CTX,
        n_seq_max=config.parallel,
        n_batch=config.batch_size,
        n_ubatch=config.ubatch_size,
        threads=config.threads,
    )


def _warm_up(context: Context, model: Model, n_batch: int) -> None:
    """One full prefill batch, so that no buffer grows at the first request."""
    batch = Batch(min(n_batch, context.n_ctx))
    tokens = np.full(batch.capacity, max(model.tokenize("a", add_special=False)), np.int32)
    batch.add(tokens, 0, 0, want_last=True)
    if not context.decode(batch):
        raise StartupError("the context is too small for one batch (try a larger --ctx-size)")
    context.clear()


def _after_self_test(lines: list[str]) -> list[str]:
    """Only what was said of the real tower: the last one that was loaded."""
    starts = [index for index, line in enumerate(lines) if "CLIP using" in line]
    return lines[starts[-1] :] if starts else []
