"""All that is said of a model and a machine: the plan, and what else would fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.memory.header import ModelHeader, TowerHeader
from server.memory.image_tokens import LLAVA, image_tokens, patch, projector, side
from server.memory.plan import MemoryPlan, plan_memory
from server.memory.search import largest_context, largest_offload
from server.memory.settings import PlanSettings
from server.memory.tower import tower_parts
from server.messages import FitDecision
from server.planner.fitting import Chosen
from server.planner.subject import Subject

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
    if projector(tower) in LLAVA and projector(tower) not in {"ldp", "ldpv2"}:
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
