"""From the settings, the files' headers and the devices to the placement that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from server.cache_types import CACHE_TYPES
from server.errors import ConfigError
from server.gguf.file import read_header
from server.gguf.header import GGUFHeader
from server.gguf.model_header import (
    LONGEST,
    ModelHeader,
    TowerHeader,
    is_mmproj,
    model_header,
    split_parts,
    tower_header,
)
from server.memory.estimate.inputs import PlanDevice, PlannedPart, PlanSettings
from server.memory.estimate.kv_cache import takes_blocks
from server.memory.estimate.plan import MemoryPlan, plan_memory
from server.memory.estimate.vision import image_tokens
from server.memory.estimate.weights import CPU, held_twice
from server.memory.fit.fit import Fit
from server.memory.fit.pools import Pool, is_remote, named_devices, pools_of, ram_of
from server.memory.fit.search_space import Placement, SearchSpace
from server.messages import DeviceMemory, EngineConfig, MemoryOptions
from server.mmproj.checks import check_pair, check_picture_settings
from server.mmproj.facts import TowerFacts, facts_of
from server.projectors import attends_both_ways
from server.sizes import GIB

_NO_GPU = (
    "there is no GPU that this llama.cpp can use; leave it out (docs/install.md says how to"
    " install a build for your GPU)"
)


def check_options(
    options: MemoryOptions, gpus: Sequence[DeviceMemory], *, has_tower: bool, takes_blocks: bool
) -> None:
    """Refuses settings that contradict each other, or that this machine cannot follow.

    ``takes_blocks``: the model's heads have sizes that llama.cpp can quantize.

    Raises:
        ConfigError: names the flag.
    """
    _check_cache(options, takes_blocks=takes_blocks)
    if not has_tower and options.mmproj_offload is not None:
        raise ConfigError("--mmproj-offload: no vision tower is loaded (--mmproj); leave it out")
    if not gpus:
        _check_without_gpu(options)
    elif options.main_gpu is not None:
        _check_main_gpu(options.main_gpu, options, gpus, has_tower=has_tower)
    if options.tensor_split:
        _check_split(options, gpus)


def _is_quantized(name: str | None) -> bool:
    return name is not None and CACHE_TYPES[name].is_quantized


def _check_cache(options: MemoryOptions, *, takes_blocks: bool) -> None:
    if options.flash_attn is False and _is_quantized(options.cache_type_v):
        raise ConfigError(
            f"--cache-type-v {options.cache_type_v}: quantized values need flash attention; leave"
            " --flash-attn on auto"
        )
    for flag, value in (("k", options.cache_type_k), ("v", options.cache_type_v)):
        if _is_quantized(value) and not takes_blocks:
            raise ConfigError(
                f"--cache-type-{flag} {value}: the heads of this model have a size that is no"
                " multiple of 32, which llama.cpp cannot quantize; use f16"
            )


def _check_without_gpu(options: MemoryOptions) -> None:
    wanted = {
        "--n-gpu-layers": options.n_gpu_layers,
        "--mmproj-offload gpu": options.mmproj_offload,
        "--tensor-split": options.tensor_split,
        "--main-gpu": options.main_gpu is not None,
        "--split-mode none": options.split_mode == "none",
    }
    for flag, value in wanted.items():
        if value:
            raise ConfigError(f"{flag}: {_NO_GPU}")


def _check_main_gpu(
    index: int, options: MemoryOptions, gpus: Sequence[DeviceMemory], *, has_tower: bool
) -> None:
    if index >= len(gpus):
        names = ", ".join(gpu.name for gpu in gpus)
        raise ConfigError(f"--main-gpu {index}: there are {len(gpus)} GPUs, from 0: {names}")
    if options.split_mode == "layer" and (not has_tower or options.mmproj_offload is False):
        raise ConfigError(
            "--main-gpu: with --split-mode layer it is the vision tower's GPU, and none is to be"
            " on one; leave it out, or use --split-mode none"
        )


def _check_split(options: MemoryOptions, gpus: Sequence[DeviceMemory]) -> None:
    if options.split_mode == "none":
        raise ConfigError("--tensor-split: with --split-mode none there is one GPU; leave it out")
    if len(options.tensor_split) != len(gpus):
        raise ConfigError(
            f"--tensor-split: {len(options.tensor_split)} shares for {len(gpus)} GPUs"
            f" ({', '.join(gpu.name for gpu in gpus)})"
        )


# llama.cpp's own default of --mtmd-batch-max-tokens.
_BATCH_TOKENS: Final = 1024


def batch_tokens(asked: int | None, *, on_gpu: bool) -> int:
    """Most tokens of pictures that are encoded together; 0 is one by one.

    On a CPU several at once are no faster than one after the other, and all wait for all.
    """
    return (_BATCH_TOKENS if on_gpu else 0) if asked is None else asked


_MOST: Final = GIB
_SHARE: Final = 8


def with_prompt_cache(
    plan: MemoryPlan, asked: int | None, pools: Sequence[Pool], ram: DeviceMemory
) -> MemoryPlan:
    """The plan, in which all that is ``asked`` for is; on auto (None) with a prompt cache, too.

    That has 1 GiB, at most an eighth of the RAM and half of what is left of it. It is added when
    all else is settled, so that nothing has to give way to it.
    """
    if asked is not None:
        return plan
    left = max(-pools[-1].excess(plan.on), 0)
    size = min(_MOST, ram.total // _SHARE, left // 2)
    if not size:
        return plan
    return replace(plan, parts=(*plan.parts, PlannedPart("prompt_cache", CPU, size)))


@dataclass(slots=True, frozen=True)
class Headers:
    """What is known of a model before it is loaded. Without a tower both others are None."""

    model: ModelHeader
    tower: TowerHeader | None = None
    facts: TowerFacts | None = None


def headers_of(
    model: Path, parts: Sequence[GGUFHeader], mmproj: Path | None, tower: GGUFHeader | None
) -> Headers:
    """The headers of a model in ``parts`` and of its tower; the paths are for the messages.

    Raises:
        StartupError: a file is not what it should be.
        ConfigError: the two were given in each other's place.
    """
    if mmproj is None or tower is None:
        return Headers(model_header(model.name, parts))
    if is_mmproj(parts[0]) and not is_mmproj(tower):
        raise ConfigError(
            f"--model and --mmproj are swapped: {model.name} is a vision tower,"
            f" {mmproj.name} a language model"
        )
    facts = facts_of(mmproj, tower)  # says best what is wrong with it
    return Headers(model_header(model.name, parts), tower_header(mmproj.name, tower), facts)


def read_headers(model: Path, mmproj: Path | None) -> Headers:
    """The same, read from files on this machine.

    Raises:
        StartupError: a file cannot be read, or is not what it should be.
    """
    parts = [read_header(part, longest=LONGEST) for part in split_parts(model)]
    tower = read_header(mmproj) if mmproj is not None else None
    return headers_of(model, parts, mmproj, tower)


@dataclass(slots=True, frozen=True)
class Planner:
    """Predicts what a placement takes, from the headers alone."""

    config: EngineConfig
    model: ModelHeader
    tower: TowerHeader | None
    gpus: tuple[DeviceMemory, ...]
    ram: DeviceMemory

    def settings(self, placement: Placement) -> PlanSettings:
        """One placement in the words of the sums."""
        config, options = self.config, self.config.memory
        gpus = self.gpus if placement.use_gpu else ()
        wanted = config.mtmd_batch_max_tokens
        return replace(
            self._of_pictures,
            devices=tuple(
                PlanDevice(d.name, d.kind, d.free, d.total, d.description, not is_remote(d))
                for d in (*gpus, self.ram)
            ),
            n_gpu_layers=placement.n_gpu_layers,
            ctx_size=placement.ctx_size,
            n_seq_max=placement.sequences(config.batch_size),
            n_batch=max(config.batch_size, self._ubatch),
            n_ubatch=self._ubatch,
            cache_type_k=placement.cache_type_k,
            cache_type_v=placement.cache_type_v,
            flash_attn=options.flash_attn is not False,
            tensor_split=placement.tensor_split,
            main_gpu=(options.main_gpu or 0) if options.split_mode == "layer" else 0,
            mmproj_offload=placement.encoder_on_gpu,
            image_cache_bytes=config.image_cache_bytes,
            prompt_cache_bytes=config.prompt_cache_bytes,
            image_batch_tokens=batch_tokens(wanted, on_gpu=placement.encoder_on_gpu),
        )

    def plan(self, placement: Placement) -> MemoryPlan:
        """The plan of one placement."""
        return plan_memory(self.model, self.tower, self.settings(placement))

    def weight_bytes(self, placement: Placement) -> int:
        """Bytes of all weights, those that are held twice counted twice."""
        model, devices = self.model, self.plan(placement).layer_devices
        twice = held_twice(model, devices)
        return sum(tensor.n_bytes for tensor in (*model.tensors, *([twice] if twice else [])))

    def whole_plan(self, placement: Placement, pools: Sequence[Pool]) -> MemoryPlan:
        """The plan, with what takes of the rest."""
        asked = self.config.prompt_cache_bytes
        return with_prompt_cache(self.plan(placement), asked, pools, self.ram)

    @property
    def picture_tokens(self) -> int:
        """Tokens of the largest picture, all tiles of it together; 0 without a tower."""
        return 0 if self.tower is None else image_tokens(self.tower, self._of_pictures)

    @property
    def _of_pictures(self) -> PlanSettings:
        config = self.config
        return PlanSettings(
            devices=(),
            image_size=config.image_size,
            image_min_tokens=config.image_min_tokens,
            image_max_tokens=config.image_max_tokens,
            image_max_edge=config.image_max_edge,
        )

    @property
    def _ubatch(self) -> int:
        """As server.engine.loading.warm_up will have it."""
        size = min(self.config.ubatch_size, self.config.batch_size)
        tower = self.tower
        whole = tower is not None and attends_both_ways(tower.projector, self.model.n_embd)
        return max(size, self.picture_tokens) if whole else size


def make_fit(config: EngineConfig, devices: tuple[DeviceMemory, ...]) -> tuple[Fit, Planner]:
    """The search for the model of the config's files on these devices.

    Raises:
        StartupError: a file cannot be read.
        ConfigError: settings of memory that contradict each other, the model or the machine.
    """
    _check_slots(config)
    return fit_model(config, read_headers(config.model, config.mmproj), devices)


def fit_model(
    config: EngineConfig, headers: Headers, devices: tuple[DeviceMemory, ...]
) -> tuple[Fit, Planner]:
    """The search for a model on these devices, from its headers alone; no file is read.

    Raises:
        StartupError: the two files do not belong together.
        ConfigError: settings that contradict each other, the model or the machine.
    """
    options = config.memory
    _check_slots(config)
    model, tower, facts = headers.model, headers.tower, headers.facts
    check_picture_settings(config, facts)
    if tower is not None and facts is not None:
        check_pair(tower.name, facts, model.name, model.n_embd)
    gpus = named_devices(devices, options.device)
    blocks = takes_blocks(model)
    check_options(options, gpus, has_tower=tower is not None, takes_blocks=blocks)
    if options.split_mode == "none":
        gpus = gpus[options.main_gpu or 0 :][:1]
    planner = Planner(config, model, tower, gpus, ram_of(devices))
    space = SearchSpace(
        options=options,
        ctx_size=config.ctx_size,
        parallel=config.parallel,
        gpus=gpus,
        layers=model.n_layer_all + 1,
        n_ctx_train=model.n_ctx_train,
        picture_tokens=planner.picture_tokens,
        n_batch=config.batch_size,
        quantized_cache=blocks,
    )
    return Fit(space, planner.plan, pools_of(devices, gpus, options.margin)), planner


def _check_slots(config: EngineConfig) -> None:
    if config.parallel is not None and config.parallel >= config.batch_size:
        raise ConfigError(
            f"--parallel {config.parallel}: must be less than --batch-size ({config.batch_size}),"
            " since a step takes a token of each; raise that"
        )
