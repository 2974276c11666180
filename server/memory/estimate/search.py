"""The largest context and the most layers that fit, found by planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from server.gguf.model_header import ModelHeader, TowerHeader
from server.memory.estimate.inputs import PlanSettings, padded
from server.memory.estimate.plan import MemoryPlan, plan_memory

_STEP = 256

# Whether a plan fits.
Fits = Callable[[MemoryPlan], bool]


def fits(
    model: ModelHeader, tower: TowerHeader | None, settings: PlanSettings, *, margin: int = 0
) -> bool:
    """Whether the plan fits its devices; ``margin`` bytes stay free on each GPU."""
    return not plan_memory(model, tower, settings).overflow(settings.devices, margin)


def largest_context(
    model: ModelHeader,
    tower: TowerHeader | None,
    settings: PlanSettings,
    *,
    within: Fits | None = None,
    most: int | None = None,
) -> int:
    """The most cells that fit, a multiple of 256; 0 where not even those do.

    ``most`` is the model's trained context where nothing is said; ``within`` replaces the
    settings' devices as what it must fit.
    """

    def good(steps: int) -> bool:
        return _good(model, tower, replace(settings, ctx_size=steps * _STEP), within)

    low, high = 0, padded(most or model.n_ctx_train or _STEP, _STEP) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low * _STEP


def largest_offload(
    model: ModelHeader,
    tower: TowerHeader | None,
    settings: PlanSettings,
    *,
    within: Fits | None = None,
) -> int:
    """The most layers that fit on the GPUs, the output layer counted; -1 if not even none do.

    Searched from all downwards: with all layers there the matrices of none are copied, so a
    plan with fewer layers may take more.
    """
    for count in range(model.n_layer_all + 1, -1, -1):
        if _good(model, tower, replace(settings, n_gpu_layers=count), within):
            return count
    return -1


def _good(
    model: ModelHeader, tower: TowerHeader | None, settings: PlanSettings, within: Fits | None
) -> bool:
    plan = plan_memory(model, tower, settings)
    return within(plan) if within else not plan.overflow(settings.devices)
