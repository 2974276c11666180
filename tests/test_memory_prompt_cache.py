"""How much RAM is left to prompts that have left the KV cache."""

from __future__ import annotations

import pytest
from memory_fakes import GIB, MIB, gpu, ram

from server.gguf.model_header import read_model_header
from server.hub.catalogue import models_dir
from server.memory.estimate.inputs import PlanDevice, PlannedPart, PlanSettings
from server.memory.estimate.plan import MemoryPlan, plan_memory
from server.memory.fit.planner import with_prompt_cache
from server.memory.fit.pools import pools_of
from server.messages import DeviceMemory


def left_to_prompts(free: int, weights: int, *gpus: DeviceMemory, margin: int | None = None) -> int:
    host = ram(free)
    plan = MemoryPlan((PlannedPart("weights", gpus[0].name if gpus else "CPU", weights),), 1, 0, ())
    pools = pools_of((*gpus, host), gpus, margin)
    return with_prompt_cache(plan, None, pools, host).of("prompt_cache")


@pytest.mark.parametrize(
    ("free", "weights", "size"),
    [
        (64 * GIB, 8 * GIB, GIB),
        (2 * GIB, GIB, 256 * MIB),  # half of what is left beside the margin
        (3 * GIB, GIB, 768 * MIB),  # an eighth of 6 GiB in all
        (2 * GIB, 2 * GIB - 500 * MIB, 0),
        (2 * GIB, 3 * GIB, 0),
    ],
)
def test_on_auto_it_takes_of_what_is_left(free: int, weights: int, size: int) -> None:
    assert left_to_prompts(free, weights) == size


def test_a_larger_margin_leaves_less() -> None:
    assert left_to_prompts(4 * GIB, GIB, margin=2 * GIB) == 512 * MIB


def test_it_is_in_the_ram_even_if_the_model_is_not() -> None:
    assert left_to_prompts(4 * GIB, 20 * GIB, gpu()) == GIB
    shared = gpu(free=4 * GIB, total=8 * GIB, backend="Metal")
    assert left_to_prompts(4 * GIB, 3 * GIB, shared) == 256 * MIB, "its memory is the RAM"


def test_what_was_asked_for_is_planned() -> None:
    model = read_model_header(models_dir() / "demo" / "llava-demo-q8_0.gguf")
    settings = PlanSettings((PlanDevice("CPU", "cpu", GIB, GIB),), prompt_cache_bytes=5 * MIB)
    assert plan_memory(model, None, settings).of("prompt_cache") == 5 * MIB
