"""From the settings, the files' headers and the devices to the placement that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.engine.wishes import check_wishes
from server.errors import ConfigError
from server.memory.cells import takes_blocks
from server.memory.fit import Fit
from server.memory.gpus import offload_devices, ram_of
from server.memory.header import ModelHeader, TowerHeader
from server.memory.image_tokens import image_tokens, projector
from server.memory.open_header import read_model_header, read_tower_header
from server.memory.placement import MAX_SEQUENCES, Placement
from server.memory.plan import MemoryPlan, plan_memory
from server.memory.pools import Pool, pools_of
from server.memory.prompt_cache import with_prompt_cache
from server.memory.settings import PlanDevice, PlanSettings
from server.memory.wants import Wants
from server.messages import DeviceMemory, EngineConfig
from server.towers.facts import read_facts

# Whose pictures are computed in one micro-batch (mtmd_decode_use_non_causal).
_WHOLE: Final = frozenset({"gemma3", "gemma4v", "gemma4uv"})


@dataclass(slots=True, frozen=True)
class Planner:
    """Predicts what a placement takes, from the headers alone."""

    config: EngineConfig
    model: ModelHeader
    tower: TowerHeader | None
    gpus: tuple[DeviceMemory, ...]
    ram: DeviceMemory

    def plan(self, placement: Placement) -> MemoryPlan:
        """The plan of one placement."""
        config, wishes = self.config, self.config.memory
        gpus = self.gpus if placement.use_gpu else ()
        settings = PlanSettings(
            devices=tuple(
                PlanDevice(d.name, d.kind, d.free, d.total, d.description)
                for d in (*gpus, self.ram)
            ),
            n_gpu_layers=placement.n_gpu_layers,
            ctx_size=placement.ctx_size,
            n_seq_max=placement.sequences(config.batch_size),
            n_batch=max(config.batch_size, self._ubatch),
            n_ubatch=self._ubatch,
            cache_type_k=placement.cache_type_k,
            cache_type_v=placement.cache_type_v,
            flash_attn=wishes.flash_attn is not False,
            use_mmap=wishes.mmap,
            tensor_split=placement.tensor_split,
            main_gpu=(wishes.main_gpu or 0) if wishes.split_mode == "layer" else 0,
            mmproj_offload=placement.encoder_on_gpu,
            image_size=config.image_size,
            image_min_tokens=config.image_min_tokens,
            image_max_tokens=config.image_max_tokens,
            image_cache_bytes=config.image_cache_bytes,
            prompt_cache_bytes=config.prompt_cache_bytes,
        )
        return plan_memory(self.model, self.tower, settings)

    def whole_plan(self, placement: Placement, pools: Sequence[Pool]) -> MemoryPlan:
        """The plan, with what takes of the rest."""
        asked = self.config.prompt_cache_bytes
        return with_prompt_cache(self.plan(placement), asked, pools, self.ram)

    @property
    def picture_tokens(self) -> int:
        """Tokens of the largest picture, all tiles of it together; 0 without a tower."""
        if self.tower is None:
            return 0
        config = self.config
        settings = PlanSettings(
            devices=(),
            image_size=config.image_size,
            image_min_tokens=config.image_min_tokens,
            image_max_tokens=config.image_max_tokens,
        )
        return image_tokens(self.tower, settings)

    @property
    def _ubatch(self) -> int:
        """As server.engine.picture_batches will have it."""
        size = min(self.config.ubatch_size, self.config.batch_size)
        whole = self.tower is not None and projector(self.tower) in _WHOLE
        return max(size, self.picture_tokens) if whole else size


def make_fit(config: EngineConfig, devices: tuple[DeviceMemory, ...]) -> tuple[Fit, Planner]:
    """The search for this model on these devices.

    Raises:
        StartupError: a file cannot be read.
        ConfigError: settings of memory that contradict each other, the model or the machine.
    """
    wishes = config.memory
    _check_slots(config)
    gpus = offload_devices(devices)
    model, tower = _read_headers(config)
    blocks = takes_blocks(model)
    check_wishes(wishes, gpus, has_tower=tower is not None, takes_blocks=blocks)
    if wishes.split_mode == "none":
        gpus = gpus[wishes.main_gpu or 0 :][:1]
    planner = Planner(config, model, tower, gpus, ram_of(devices))
    wants = Wants(
        wishes=wishes,
        ctx_size=config.ctx_size,
        parallel=config.parallel,
        gpus=gpus,
        layers=model.n_layer_all + 1,
        n_ctx_train=model.n_ctx_train,
        picture_tokens=planner.picture_tokens,
        n_batch=config.batch_size,
        quantized_cache=blocks,
    )
    return Fit(wants, planner.plan, pools_of(devices, gpus, wishes.margin)), planner


def _read_headers(config: EngineConfig) -> tuple[ModelHeader, TowerHeader | None]:
    model = read_model_header(config.model)
    if config.mmproj is None:
        return model, None
    read_facts(config.mmproj)  # says best what is wrong with it
    return model, read_tower_header(config.mmproj)


def _check_slots(config: EngineConfig) -> None:
    most = min(MAX_SEQUENCES, config.batch_size)
    if config.parallel is not None and config.parallel >= most:
        raise ConfigError(
            f"--parallel {config.parallel}: must be less than --batch-size ({config.batch_size})"
            f" and than llama.cpp's {MAX_SEQUENCES} sequences"
        )
