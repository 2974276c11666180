"""All that is said of a model and a machine: the plan, and what else would fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.cli.plan.model import Subject
from server.errors import OutOfMemory
from server.gguf.model_header import ModelHeader, TowerHeader
from server.memory.estimate.inputs import PlanSettings
from server.memory.estimate.plan import MemoryPlan
from server.memory.estimate.vision import image_tokens, patch, side, tower_parts
from server.memory.fit.fit import Fit, Fitted
from server.memory.fit.planner import Headers, Planner, fit_model
from server.memory.fit.search_space import Placement
from server.messages import DeviceMemory, EngineConfig, FitDecision
from server.projectors import projector_of


@dataclass(slots=True, frozen=True)
class Chosen:
    """What the fit chose, with ``refusal`` where nothing fits: then it is all that is wanted."""

    fit: Fit
    planner: Planner
    fitted: Fitted
    refusal: str = ""

    @property
    def settings(self) -> PlanSettings:
        """The placement in the words of the sums."""
        return self.planner.settings(self.fitted.placement)

    @property
    def plan(self) -> MemoryPlan:
        """What it takes."""
        return self.planner.whole_plan(self.fitted.placement, self.fit.pools)


def choose(headers: Headers, config: EngineConfig, devices: tuple[DeviceMemory, ...]) -> Chosen:
    """Fits the model to the devices as ``serve`` does."""
    fit, planner = fit_model(config, headers, devices)
    if not config.memory.fit:
        return Chosen(fit, planner, fit.unfitted())
    try:
        return Chosen(fit, planner, fit.best())
    except OutOfMemory as error:
        return Chosen(fit, planner, fit.unfitted(), error.message)


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
class Context:
    """Cells of all slots together, ``layers`` of the model then on GPUs; 0 where none fit."""

    cells: int = 0
    layers: int = 0
    parallel: int = 0


@dataclass(slots=True, frozen=True)
class Outcome:
    """``overflow`` is bytes too many by device, ``refusal`` the server's words for it.

    ``largest`` is the largest context that fits with as many layers on GPUs as it leaves room
    for, ``beside_layers`` the largest that fits with the layers where the plan has them.
    """

    subject: Subject
    settings: PlanSettings
    plan: MemoryPlan
    parallel: int
    decisions: tuple[FitDecision, ...]
    refusal: str
    overflow: dict[str, int]
    largest: Context
    beside_layers: Context
    resolutions: tuple[Resolution, ...]
    quantizations: tuple[Quantization, ...]

    @property
    def fits(self) -> bool:
        """Whether the plan fits."""
        return not self.refusal and not self.overflow


def work_out(subject: Subject, chosen: Chosen, files: dict[str, int]) -> Outcome:
    """What else would fit beside what was chosen; ``files`` are the same model's others."""
    plan, settings = chosen.plan, chosen.settings
    over = {pool.devices[0]: pool.excess(plan.on) for pool in chosen.fit.pools}
    placement = chosen.fitted.placement
    most = max(subject.headers.model.n_ctx_train, 1) * max(placement.parallel, 1)
    layers = placement.n_gpu_layers if placement.use_gpu else 0
    options = replace(chosen.fit.space.options, n_gpu_layers=layers)
    fixed = replace(chosen.fit, space=replace(chosen.fit.space, options=options))
    return Outcome(
        subject=subject,
        settings=settings,
        plan=plan,
        parallel=placement.parallel,
        decisions=chosen.fitted.decisions,
        refusal=chosen.refusal,
        overflow={name: excess for name, excess in over.items() if excess > 0},
        largest=_context(chosen.fit.largest_context(most)),
        beside_layers=_context(fixed.largest_context(most)),
        resolutions=_resolutions(subject.headers.tower, settings),
        quantizations=tuple(_quantizations(subject, chosen, files)),
    )


def _context(found: Placement | None) -> Context:
    if found is None:
        return Context()
    return Context(found.ctx_size, found.n_gpu_layers if found.use_gpu else 0, found.parallel)


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
    own, placement = subject.headers.model.n_bytes, chosen.fitted.placement
    space = replace(chosen.fit.space, parallel=placement.parallel)
    found = []
    for file, size in sorted(files.items(), key=lambda item: item[1]):
        scaled = _scaled(subject.headers.model, size / own if own else 1.0)
        planner = replace(chosen.planner, model=scaled)
        fit = replace(chosen.fit, space=space, predict=planner.plan)
        placed = fit.most_layers(placement.ctx_size)
        layers = -1 if placed is None else placed.n_gpu_layers
        total = planner.plan(placed or placement).total
        found.append(Quantization(file, size, total, layers, chosen=file == subject.file))
    return found


def _scaled(model: ModelHeader, factor: float) -> ModelHeader:
    tensors = tuple(
        replace(tensor, n_bytes=round(tensor.n_bytes * factor)) for tensor in model.tensors
    )
    return replace(model, tensors=tensors)
