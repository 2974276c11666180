"""One attempt to load: model, tower and context, all of them or none."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from server.engine.llama.context import Context
from server.engine.llama.ggml import Cuts, device_handle
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.engine.llama.shift_check import ShiftCheck, check_shift
from server.engine.loading.warm_up import (
    for_pictures,
    largest_picture,
    sample_tokens,
    warm_up,
    warm_up_tower,
)
from server.engine.vision.encoders import choose_cuts
from server.engine.vision.open_tower import open_tower
from server.engine.vision.tower import Tower
from server.errors import OutOfMemory, StartupError
from server.memory.fit.search_space import Placement
from server.messages import DeviceMemory, EngineConfig, EngineProgress, VisionFacts

logger = logging.getLogger(__name__)

# From ggml-alloc.c, ggml-backend.cpp, ggml-cuda.cu, ggml-vulkan.cpp, llama-model.cpp.
_BUFFER = re.compile(r"(?:failed|unable) to allocate (\w+) buffer")
_GPU = re.compile(
    r"cudaMalloc failed|ErrorOutOfDeviceMemory|Device memory allocation of size"
    r"|CommandBufferCallbackErrorOutOfMemory|CUDA error: out of memory"
)
# From ggml.c, ggml-backend.cpp, llama-kv-cache.cpp, llama-context.cpp, the C++ library and libc.
_RAM = re.compile(
    r"insufficient memory \(attempted|failed to allocate|unable to allocate|bad_alloc"
    r"|Cannot allocate memory|out of memory"
)
# Words that stand where a backend's name would.
_NO_NAMES = {"output", "compute", "context"}


class Exhausted(Enum):
    """What there was too little of."""

    GPU = "a GPU's memory"
    RAM = "the RAM"


def exhausted(lines: Iterable[str]) -> Exhausted | None:
    """What the lines of a failed load complain about; None where memory was not the matter."""
    lines = list(lines)
    for line in lines:
        found = _BUFFER.search(line)
        if _GPU.search(line) or (found and _on_gpu(found[1])):
            return Exhausted.GPU
    return Exhausted.RAM if any(map(_RAM.search, lines)) else None


def _on_gpu(buffer: str) -> bool:
    """Whether a buffer's name is that of a GPU's memory: ``CUDA0``, and not ``CUDA_Host``."""
    host = buffer.startswith("CPU") or buffer.endswith("_Host")
    return not host and buffer not in _NO_NAMES


Progress = Callable[[EngineProgress], None]


@dataclass(slots=True, frozen=True)
class Handles:
    """What was loaded, warm; ``lines`` is what llama.cpp logged about model and context.

    ``config`` has batches as large as its pictures want them. With ``cuts`` the tower can be
    interrupted. ``speed`` is that of prefill, in positions per second. ``shift`` is refused
    without ``--cache-reuse``, too.
    """

    config: EngineConfig
    model: Model
    tower: Tower | None
    vision: VisionFacts | None
    cuts: Cuts | None
    context: Context
    speed: float
    shift: ShiftCheck
    lines: tuple[str, ...]

    def close(self) -> None:
        """Frees everything in the order that llama.cpp wants."""
        if self.tower is not None:
            self.tower.close()
        self.context.close()
        self.model.close()


@dataclass(slots=True, frozen=True)
class Loader:
    """Loads as often as it is asked to. ``gpus`` are those that llama.cpp may use."""

    config: EngineConfig
    gpus: tuple[DeviceMemory, ...]
    log: LlamaLog
    report: Progress

    def open(self, placement: Placement) -> Handles:
        """Loads as the placement says. Whatever fails, what was loaded before it is freed.

        Raises:
            OutOfMemory: llama.cpp found too little memory.
            StartupError: it failed for another reason.
        """
        with ExitStack() as stack:
            try:
                handles = self._open(placement, stack)
            except (StartupError, RuntimeError) as error:
                kind = exhausted(self.log.lines)
                if kind is None:
                    raise
                raise OutOfMemory(f"llama.cpp ran out of {kind.value}: {error}") from error
            stack.pop_all()
            return handles

    def _open(self, placement: Placement, stack: ExitStack) -> Handles:
        log = self.log
        model = self._open_model(placement)
        stack.callback(model.close)
        lines = log.take()
        cuts = choose_cuts(placement, self.gpus, self._tower_gpu)
        tower = self._open_tower(placement, model, cuts)
        if tower is not None:
            stack.callback(tower.close)
        config = for_pictures(self.config, tower)
        vision = tower.facts() if tower else None
        context = self._open_context(placement, model, config)
        stack.callback(context.close)
        self.report(EngineProgress("warm-up", 0.0))
        speed = warm_up(context, model, config.batch_size, on_gpu=self._on_gpu(placement))
        if tower is not None and vision is not None:
            largest = largest_picture(config, vision)
            warm_up_tower(tower, largest, context, config, cuts)
        shift = _check_shift(config, model, context, placement.sequences(config.batch_size))
        lines += log.take()
        return Handles(config, model, tower, vision, cuts, context, speed, shift, tuple(lines))

    def _on_gpu(self, placement: Placement) -> bool:
        return placement.use_gpu and bool(self.gpus)

    def _open_model(self, placement: Placement) -> Model:
        options = self.config.memory
        handles = [device_handle(gpu.name) for gpu in self.gpus if placement.use_gpu]
        return Model(
            self.config.model,
            placement.n_gpu_layers,
            lambda done: self.report(EngineProgress("weights", done)),
            devices=[handle for handle in handles if handle],
            tensor_split=placement.tensor_split,
            mmap=options.mmap,
            mlock=options.mlock,
        )

    @property
    def _tower_gpu(self) -> int:
        """Index of the GPU for the tower. With --split-mode none the only one is the main one."""
        return min(self.config.memory.main_gpu or 0, len(self.gpus) - 1)

    def _open_tower(self, placement: Placement, model: Model, cuts: Cuts | None) -> Tower | None:
        self.report(EngineProgress("vision tower", 0.0))
        device = None
        if placement.encoder_on_gpu:
            device = device_handle(self.gpus[self._tower_gpu].name)
        on_gpu = placement.encoder_on_gpu
        return open_tower(self.config, model, cuts, offload=on_gpu, device=device, log=self.log)

    def _open_context(self, placement: Placement, model: Model, config: EngineConfig) -> Context:
        self.report(EngineProgress("context", 0.0))
        return Context(
            model,
            n_ctx=placement.ctx_size,
            n_seq_max=placement.sequences(config.batch_size),
            n_batch=config.batch_size,
            n_ubatch=config.ubatch_size,
            threads=config.threads,
            cache_types=(placement.cache_type_k, placement.cache_type_v),
            flash_attn=config.memory.flash_attn,
        )


def _check_shift(
    config: EngineConfig, model: Model, context: Context, sequences: int
) -> ShiftCheck:
    """Whether cells can be shifted, if ``--cache-reuse`` asks for it; the log says why not."""
    if not config.cache_reuse:
        return ShiftCheck("--cache-reuse is 0")
    tokens = sample_tokens(model)
    if not model.shares_prefixes:
        check = ShiftCheck("it has a state instead of cells")
    elif sequences <= 3 or config.batch_size < len(tokens):
        check = ShiftCheck("--batch-size is too small")
    else:
        check = check_shift(context, tokens)
    if check.refusal:
        logger.warning("--cache-reuse has no effect with this model: %s", check.refusal)
    else:
        logger.info("to shift cells takes %.0f ms each time", check.seconds * 1000)
    return check
