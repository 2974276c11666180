"""All that is said of a model and a machine: the plan, and what else would fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.memory.header import ModelHeader, TowerHeader
from server.memory.image_tokens import LLAVA, image_tokens, patch, projector, side
from server.memory.plan import MemoryPlan, plan_memory
from server.memory.search import largest_context, largest_offload
from server.memory.settings import PlanSettings
from server.memory.tower import tower_parts
from server.planner.subject import Subject

_DEFAULT_CTX, _LEAST_CTX, _BESIDE_A_PICTURE = 8192, 2048, 1024
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
    """``overflow`` is bytes too many by device. ``layers`` is the most that fit, -1 for none.

    ``context`` is the largest that fits with the layers where they are, ``gpu_context`` with all of
    them on GPUs, 0 where none does.
    """

    subject: Subject
    settings: PlanSettings
    margin: int
    plan: MemoryPlan
    overflow: dict[str, int]
    layers: int
    context: int
    gpu_context: int
    resolutions: tuple[Resolution, ...]
    quantizations: tuple[Quantization, ...]

    @property
    def fits(self) -> bool:
        """Whether the plan fits."""
        return not self.overflow


def work_out(
    subject: Subject,
    settings: PlanSettings,
    *,
    margin: int,
    auto_layers: bool,
    files: dict[str, int],
) -> Outcome:
    """Decides what was left on auto (a context of 0, the layers) and plans."""
    model, tower = subject.model, subject.tower
    if not settings.ctx_size:
        settings = replace(settings, ctx_size=_context(subject, settings, margin))
    layers = largest_offload(model, tower, settings, margin=margin)
    if auto_layers:
        settings = replace(settings, n_gpu_layers=max(layers, 0))
    plan = plan_memory(model, tower, settings)
    return Outcome(
        subject=subject,
        settings=settings,
        margin=margin,
        plan=plan,
        overflow=plan.overflow(settings.devices, margin),
        layers=layers,
        context=largest_context(model, tower, settings, margin=margin),
        gpu_context=_on_gpus(subject, settings, margin),
        resolutions=_resolutions(tower, settings),
        quantizations=tuple(_quantizations(subject, settings, margin, files)),
    )


def _context(subject: Subject, settings: PlanSettings, margin: int) -> int:
    """8192 cells, or fewer where no more are known or fit, but enough for a picture and talk."""
    known = subject.model.n_ctx_train or _DEFAULT_CTX
    tokens = image_tokens(subject.tower, settings) if subject.tower else 0
    least = min(max(_LEAST_CTX, tokens + _BESIDE_A_PICTURE), known)
    most = min(max(_DEFAULT_CTX, least), known)
    found = largest_context(subject.model, subject.tower, settings, margin=margin, most=most)
    return max(found, least)


def _on_gpus(subject: Subject, settings: PlanSettings, margin: int) -> int:
    if not settings.gpus:
        return 0
    settings = replace(settings, n_gpu_layers=-1)
    return largest_context(subject.model, subject.tower, settings, margin=margin)


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


def _quantizations(
    subject: Subject, settings: PlanSettings, margin: int, files: dict[str, int]
) -> list[Quantization]:
    """Each file in the place of the planned one: its tensors scaled, all else the same."""
    own, tower = subject.model.n_bytes, subject.tower
    found = []
    for file, size in sorted(files.items(), key=lambda item: item[1]):
        model = _scaled(subject.model, size / own if own else 1.0)
        layers = largest_offload(model, tower, settings, margin=margin)
        total = plan_memory(model, tower, settings).total
        found.append(Quantization(file, size, total, layers, chosen=file == subject.file))
    return found


def _scaled(model: ModelHeader, factor: float) -> ModelHeader:
    tensors = tuple(
        replace(tensor, n_bytes=round(tensor.n_bytes * factor)) for tensor in model.tensors
    )
    return replace(model, tensors=tensors)
