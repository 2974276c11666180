"""All that is said of a model and a machine: the plan, and what else would fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.cli.plan.model import Subject
from server.errors import OutOfMemory
from server.gguf.model_header import ModelHeader, TowerHeader
from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.kv_cache import takes_blocks
from server.memory.estimate.plan import MemoryPlan, plan_memory
from server.memory.estimate.search import largest_context, largest_offload
from server.memory.estimate.vision import image_tokens, patch, side, tower_parts
from server.memory.fit.fit import Fit, Fitted
from server.memory.fit.planner import with_prompt_cache
from server.memory.fit.pools import Pool, offload_devices, pools_of, ram_of
from server.memory.fit.wants import Placement, Wants
from server.messages import DeviceMemory, FitDecision, MemoryWishes
from server.mmproj.projectors import projector_of


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


_SIDES = (224, 336, 448, 672)


@dataclass(slots=True, frozen=True)
class Resolution:
    """A size of picture: most tokens, and the tower's compute buffer in bytes."""

    image_size: int
    tokens: int
    compute: int
    native: bool


@dataclass(slots=True, frozen=True)
class Quantization:
    """A file of the same model: its bytes, the plan's total with it, layers that fit (-1: none)."""

    file: str
    bytes: int
    total: int
    layers: int
    chosen: bool


@dataclass(slots=True, frozen=True)
class Outcome:
    """``overflow`` is bytes too many by device, ``refusal`` the server's words for it.

    ``context`` is the largest that fits with the layers where they are, ``gpu_context`` with all of
    them on GPUs, 0 where none does. ``parallel`` is the number of slots.
    """

    subject: Subject
    settings: PlanSettings
    plan: MemoryPlan
    parallel: int
    decisions: tuple[FitDecision, ...]
    refusal: str
    overflow: dict[str, int]
    context: int
    gpu_context: int
    resolutions: tuple[Resolution, ...]
    quantizations: tuple[Quantization, ...]

    @property
    def fits(self) -> bool:
        """Whether the plan fits."""
        return not self.refusal


def work_out(subject: Subject, chosen: Chosen, files: dict[str, int]) -> Outcome:
    """What else would fit beside what was chosen; ``files`` are the same model's others."""
    model, tower, settings = subject.model, subject.tower, chosen.settings
    over = {pool.devices[0]: pool.excess(chosen.plan.on) for pool in chosen.pools}
    return Outcome(
        subject=subject,
        settings=settings,
        plan=chosen.plan,
        parallel=chosen.fitted.placement.parallel,
        decisions=chosen.fitted.decisions,
        refusal=chosen.refusal,
        overflow={name: excess for name, excess in over.items() if excess > 0},
        context=largest_context(model, tower, settings, within=chosen.within),
        gpu_context=_on_gpus(subject, chosen),
        resolutions=_resolutions(tower, settings),
        quantizations=tuple(_quantizations(subject, chosen, files)),
    )


def _on_gpus(subject: Subject, chosen: Chosen) -> int:
    if not chosen.settings.gpus:
        return 0
    settings = replace(chosen.settings, n_gpu_layers=-1, tensor_split=())
    return largest_context(subject.model, subject.tower, settings, within=chosen.within)


def _resolutions(tower: TowerHeader | None, settings: PlanSettings) -> tuple[Resolution, ...]:
    if tower is None:
        return ()
    own = side(tower, replace(settings, image_size=None))
    chosen = side(tower, settings)
    sizes = {own, chosen} - {0}
    known = projector_of(tower.projector)
    if known.llava and known.merge == 1:
        sizes |= {size for size in _SIDES if size % patch(tower) == 0}
    found = []
    for size in sorted(sizes):
        one = replace(settings, image_size=size)
        compute = next(part for part in tower_parts(tower, one) if part.part == "vision_compute")
        found.append(Resolution(size, image_tokens(tower, one), compute.bytes, size == own))
    return tuple(found)


def _quantizations(subject: Subject, chosen: Chosen, files: dict[str, int]) -> list[Quantization]:
    """Each file in the place of the planned one: its tensors scaled, all else the same."""
    own, tower = subject.model.n_bytes, subject.tower
    settings = replace(chosen.settings, tensor_split=())
    found = []
    for file, size in sorted(files.items(), key=lambda item: item[1]):
        model = _scaled(subject.model, size / own if own else 1.0)
        layers = largest_offload(model, tower, settings, within=chosen.within)
        total = plan_memory(model, tower, settings).total
        found.append(Quantization(file, size, total, layers, chosen=file == subject.file))
    return found


def _scaled(model: ModelHeader, factor: float) -> ModelHeader:
    tensors = tuple(
        replace(tensor, n_bytes=round(tensor.n_bytes * factor)) for tensor in model.tensors
    )
    return replace(model, tensors=tensors)
