"""Loading: model, self-test and repair of the tower, cache, warm-up, and the report of it all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.engine.bindings.context import Batch, Context
from server.engine.bindings.devices import build_facts, list_devices
from server.engine.bindings.log import LlamaLog
from server.engine.bindings.model import Model
from server.engine.core import EngineCore
from server.engine.encoders import Encoders, choose_cuts, make_encoders
from server.engine.encodes import Encodes
from server.engine.image_cache import ImageCache
from server.engine.kv import KVCache
from server.engine.pace import Pace
from server.engine.picture_batches import for_pictures
from server.engine.request import Picture
from server.engine.runner import LlamaRunner
from server.engine.scheduler import Scheduler
from server.engine.vision import VisionEncoder, load_vision
from server.errors import ConfigError, StartupError
from server.memory.report import format_report, read_report, tower_backend
from server.messages import BuildFacts, EngineConfig, EngineProgress, EngineReady

logger = logging.getLogger(__name__)

# Cells for --ctx-size 0: enough for a few conversations with pictures, 4 GiB for a 7B LLaVA.
DEFAULT_CTX = 8192
# Finished sequences that may be kept; llama.cpp allows 256 ids in all (LLAMA_MAX_SEQ).
IDLE_SEQUENCES = 64
MAX_SEQUENCES = 256


@dataclass(slots=True)
class LoadedEngine:
    """All that the engine process owns; ``close`` frees it in the order that llama.cpp wants."""

    core: EngineCore
    ready: EngineReady
    model: Model
    context: Context
    encoder: VisionEncoder | None
    encoders: Encoders | None

    def close(self) -> None:
        """Frees every handle."""
        if self.encoders is not None:
            self.encoders.close()
        if self.encoder is not None:
            self.encoder.close()
        self.context.close()
        self.model.close()


def load(
    config: EngineConfig,
    report: Callable[[EngineProgress], None],
    post: Callable[[Any], None],
) -> LoadedEngine:
    """Loads everything that ``config`` names.

    ``report`` is told of the progress; ``post`` puts a message to the engine's loop, from any
    thread.

    Raises:
        StartupError: a file cannot be loaded or does not fit; the message says which and why.
    """
    log = LlamaLog()
    try:
        return _load(config, log, report, post)
    except StartupError as error:
        reason = log.last_error()
        raise type(error)(f"{error.message} ({reason})" if reason else error.message) from error
    finally:
        log.stop_keeping()


def _load(
    config: EngineConfig,
    log: LlamaLog,
    report: Callable[[EngineProgress], None],
    post: Callable[[Any], None],
) -> LoadedEngine:
    start = time.perf_counter()
    build, devices = _read_build(), list_devices()
    model = Model(
        config.model, config.n_gpu_layers, lambda done: report(EngineProgress("weights", done))
    )
    lines = log.take()
    report(EngineProgress("vision tower", 0.0))
    cuts = choose_cuts(config, devices)
    encoder = load_vision(config, model, cuts)
    tower_lines = _of_last_tower(log.take())
    config = for_pictures(config, encoder, tower_backend(tower_lines))
    report(EngineProgress("context", 0.0))
    context = _make_context(config, model)
    speed = _warm_up(context, model, config.batch_size, report)
    lines += tower_lines + log.take()
    memory = read_report(lines, devices, model.n_layer + 1)
    for line in format_report(memory):
        logger.info("%s", line)
    n_batch, n_ubatch = config.batch_size, config.ubatch_size
    runner = LlamaRunner(model, context, encoder, n_batch=n_batch, n_ubatch=n_ubatch)
    ready = EngineReady(
        model=model.facts(context.n_ctx, runner.n_ctx_seq),
        vision=encoder.facts(tower_backend(tower_lines)) if encoder else None,
        memory=memory,
        build=build,
        load_seconds=time.perf_counter() - start,
        pid=os.getpid(),
    )
    scheduler = _make_scheduler(config, model, context, speed, encoder)
    encoders = make_encoders(config, encoder, cuts, build, post) if encoder else None
    core = _make_core(config, runner, scheduler, encoders)
    return LoadedEngine(core, ready, model, context, encoder, encoders)


def _read_build() -> BuildFacts:
    build = build_facts()
    names = ", ".join(build.backends)
    logger.info("llama-cpp-python %s, devices: %s", build.llama_cpp_python, names)
    return build


def _make_core(
    config: EngineConfig, runner: LlamaRunner, scheduler: Scheduler, encoders: Encoders | None
) -> EngineCore:
    images = ImageCache(config.image_cache_bytes, encoders.keep if encoders else None)
    return EngineCore(runner, scheduler, images, encoders.submit if encoders else _no_tower)


def _no_tower(_pictures: list[Picture]) -> None:
    raise RuntimeError("a picture was admitted without a vision tower")


def _make_context(config: EngineConfig, model: Model) -> Context:
    return Context(
        model,
        n_ctx=config.ctx_size or DEFAULT_CTX,
        n_seq_max=_sequences(config),
        n_batch=config.batch_size,
        n_ubatch=config.ubatch_size,
        threads=config.threads,
    )


def _make_scheduler(
    config: EngineConfig,
    model: Model,
    context: Context,
    speed: float,
    encoder: VisionEncoder | None,
) -> Scheduler:
    return Scheduler(
        KVCache(_sequences(config), context.n_ctx),
        config.batch_size,
        config.parallel,
        Pace(config.itl_target, speed),
        share_prefixes=model.shares_prefixes,
        encodes=Encodes(encoder.batch_tokens if encoder else 0),
        # llama_decode aborts where more than a micro-batch is to be attended to at once.
        n_pictures=config.ubatch_size if encoder and encoder.whole else config.batch_size,
    )


def _sequences(config: EngineConfig) -> int:
    """Sequence ids: those that run at once, and idle ones whose prefix may serve others.

    llama.cpp aborts where a batch could not hold a token of every sequence.
    """
    most = min(MAX_SEQUENCES, config.batch_size)
    if config.parallel >= most:
        raise ConfigError(
            f"--parallel {config.parallel}: must be less than --batch-size ({config.batch_size})"
            f" and than llama.cpp's {MAX_SEQUENCES} sequences"
        )
    return min(config.parallel + IDLE_SEQUENCES, most)


def _warm_up(
    context: Context, model: Model, n_batch: int, report: Callable[[EngineProgress], None]
) -> float:
    """One full prefill batch, so that no buffer grows later; returns positions per second."""
    report(EngineProgress("warm-up", 0.0))
    batch = Batch(min(n_batch, context.n_ctx))
    tokens = np.full(batch.capacity, max(model.tokenize("a", add_special=False)), np.int32)
    batch.add(tokens, 0, 0, want_last=True)
    start = time.perf_counter()
    if not context.decode(batch):
        raise StartupError("the context is too small for one batch (try a larger --ctx-size)")
    seconds = time.perf_counter() - start
    context.clear()
    return batch.size / seconds


def _of_last_tower(lines: list[str]) -> list[str]:
    """Only what was said of the real tower: the self-test's were loaded before it."""
    starts = [index for index, line in enumerate(lines) if "CLIP using" in line]
    return lines[starts[-1] :] if starts else []
