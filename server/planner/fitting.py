"""The server's own fit, asked beforehand: what it would choose of all that is left on auto."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.errors import OutOfMemory
from server.memory.cells import takes_blocks
from server.memory.fit import Fit, Fitted
from server.memory.gpus import offload_devices, ram_of
from server.memory.image_tokens import image_tokens
from server.memory.placement import Placement
from server.memory.plan import MemoryPlan, plan_memory
from server.memory.pools import Pool, pools_of
from server.memory.prompt_cache import with_prompt_cache
from server.memory.settings import PlanDevice, PlanSettings
from server.memory.wants import Wants
from server.messages import DeviceMemory, MemoryWishes
from server.planner.subject import Subject


@dataclass(slots=True, frozen=True)
class Asked:
    """What the command line asks for; None is auto. ``base`` has what the fit does not decide."""

    wishes: MemoryWishes
    ctx_size: int | None
    parallel: int | None
    base: PlanSettings


@dataclass(slots=True, frozen=True)
class Chosen:
    """What the fit chose, with ``refusal`` where nothing fits: then it is all that is wanted."""

    fitted: Fitted
    settings: PlanSettings
    plan: MemoryPlan
    pools: tuple[Pool, ...]
    refusal: str = ""

    def within(self, plan: MemoryPlan) -> bool:
        """Whether another plan fits the same machine."""
        return all(pool.excess(plan.on) <= 0 for pool in self.pools)


def choose(subject: Subject, asked: Asked, devices: tuple[DeviceMemory, ...]) -> Chosen:
    """Fits the model to the devices as ``serve`` would."""
    wishes, base = asked.wishes, asked.base
    gpus = offload_devices(devices)
    if wishes.split_mode == "none":
        gpus = gpus[wishes.main_gpu or 0 :][:1]
    ram = ram_of(devices)

    def settings_of(placement: Placement) -> PlanSettings:
        used = gpus if placement.use_gpu else ()
        return replace(
            base,
            devices=tuple(
                PlanDevice(one.name, one.kind, one.free, one.total, one.description)
                for one in (*used, ram)
            ),
            n_gpu_layers=placement.n_gpu_layers,
            ctx_size=placement.ctx_size,
            n_seq_max=placement.sequences(base.n_batch),
            cache_type_k=placement.cache_type_k,
            cache_type_v=placement.cache_type_v,
            tensor_split=placement.tensor_split,
            main_gpu=(wishes.main_gpu or 0) if wishes.split_mode == "layer" else 0,
            mmproj_offload=placement.encoder_on_gpu,
        )

    def predict(placement: Placement) -> MemoryPlan:
        return plan_memory(subject.model, subject.tower, settings_of(placement))

    pools = pools_of(devices, gpus, wishes.margin)
    fit = Fit(_wants(subject, asked, gpus), predict, pools)
    refusal = ""
    try:
        fitted = fit.best()
    except OutOfMemory as error:
        fitted, refusal = fit.unfitted(), error.message
    settings, plan = settings_of(fitted.placement), predict(fitted.placement)
    plan = with_prompt_cache(plan, base.prompt_cache_bytes, pools, ram)
    return Chosen(fitted, settings, plan, pools, refusal)


def _wants(subject: Subject, asked: Asked, gpus: tuple[DeviceMemory, ...]) -> Wants:
    tower = subject.tower
    return Wants(
        wishes=asked.wishes,
        ctx_size=asked.ctx_size,
        parallel=asked.parallel,
        gpus=gpus,
        layers=subject.model.n_layer_all + 1,
        n_ctx_train=subject.model.n_ctx_train,
        picture_tokens=image_tokens(tower, asked.base) if tower else 0,
        n_batch=asked.base.n_batch,
        quantized_cache=takes_blocks(subject.model),
    )
