"""Largest context, most layers, image tokens; and what must hold for every plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.plan import plan_memory
from server.memory.estimate.vision import image_tokens
from server.memory.estimate.weights import layer_devices
from server.memory.fit.fit import Fit
from server.memory.fit.planner import Headers, Planner, fit_model
from server.messages import DeviceMemory, EngineConfig
from tests.headers import model_of, tower_of

GIB = 1 << 30
RAM = PlanDevice("CPU", "cpu", 512 * GIB, 512 * GIB)
MODEL, TOWER = model_of("llava-1.5-7b"), tower_of("llava-1.5-7b")


def on(*gigabytes: float) -> PlanSettings:
    """A machine with such GPUs."""
    gpus = [
        PlanDevice(f"CUDA{index}", "gpu", int(size * GIB), int(size * GIB))
        for index, size in enumerate(gigabytes)
    ]
    return PlanSettings((*gpus, RAM), n_seq_max=8)


@pytest.mark.parametrize(
    ("shape", "size", "tokens"),
    [
        ("llava-1.5-7b", None, 576),
        ("llava-1.5-7b", 224, 256),
        ("llava-1.6-mistral-7b", None, 2928),
        ("tinyllava-1.1b", None, 729),
        ("mobilevlm-v2-1.7b", None, 144),
    ],
)
def test_image_tokens(shape: str, size: int | None, tokens: int) -> None:
    assert image_tokens(tower_of(shape), replace(on(24), image_size=size)) == tokens


def fit_on(gigabytes: float, ram: int = 512 * GIB, **settings: int) -> tuple[Fit, Planner]:
    """The search for the model on a machine with one such GPU, or none where that is 0."""
    config = EngineConfig(Path("m"), None, Path(), None, None, 1, **settings)  # type: ignore[arg-type]
    size = int(gigabytes * GIB)
    cards = (DeviceMemory("CUDA0", "", "gpu", size, size),) if size else ()
    host = DeviceMemory("CPU", "", "cpu", ram, ram)
    return fit_model(config, Headers(MODEL, TOWER), (*cards, host))


def test_the_largest_context_fits_and_one_step_more_does_not() -> None:
    fit, planner = fit_on(6, ram=8 * GIB)
    found = fit.largest_context(1 << 20)
    assert found is not None
    assert 8192 < found.ctx_size < 1 << 20
    assert all(pool.excess(planner.plan(found).on) <= 0 for pool in fit.pools)
    assert fit.most_layers(found.ctx_size + 256) is None
    assert fit_on(0, ram=2 * GIB)[0].largest_context(1 << 20) is None


def test_as_many_layers_as_fit() -> None:
    whole, some = (fit_on(size)[0].most_layers(8192) for size in (24, 4))
    assert whole is not None
    assert some is not None
    assert whole.n_gpu_layers == 33
    assert 0 < some.n_gpu_layers < 33


def test_layers_are_split_as_llama_cpp_splits_them() -> None:
    """upper_bound over the shares: 12 of 33 layers on the first, the output on the last."""
    chosen = replace(on(24, 24), tensor_split=(12.0, 21.0))
    devices = layer_devices(MODEL, chosen)
    assert devices.count("CUDA0") == 12
    assert devices[-1] == "CUDA1"
    part = layer_devices(MODEL, replace(on(24), n_gpu_layers=5))
    assert part == ("CPU",) * 28 + ("CUDA0",) * 5


def test_the_main_gpu_takes_the_tower() -> None:
    plan = plan_memory(MODEL, TOWER, replace(on(24, 24), main_gpu=1))
    assert {part.device for part in plan.parts if part.part == "vision_encoder"} == {"CUDA1"}


SIZES = st.sampled_from([512, 1024, 4096, 8192, 32768])


@given(SIZES, st.integers(1, 64), st.integers(0, 33), st.sampled_from(["f16", "q8_0", "q4_0"]))
@settings(max_examples=60)
def test_more_of_anything_never_takes_less(
    cells: int, sequences: int, layers: int, kind: str
) -> None:
    base = replace(
        on(80), ctx_size=cells, n_seq_max=sequences, n_gpu_layers=layers, cache_type_k=kind
    )
    plan = plan_memory(MODEL, TOWER, base)
    assert all(part.bytes >= 0 for part in plan.parts)
    assert plan.layers_offloaded == layers
    longer = plan_memory(MODEL, TOWER, replace(base, ctx_size=2 * cells))
    assert longer.of("kv_cache") == 2 * plan.of("kv_cache")
    assert longer.of("compute") >= plan.of("compute")
    wider = plan_memory(MODEL, TOWER, replace(base, n_seq_max=sequences + 8))
    # the batch is rounded up to a multiple of the sequences, so compute may well shrink
    assert wider.of("output") > plan.of("output")
    finer = plan_memory(MODEL, TOWER, replace(base, cache_type_k="f32"))
    assert finer.of("kv_cache") > plan.of("kv_cache")
    further = plan_memory(MODEL, TOWER, replace(base, n_gpu_layers=min(layers + 1, 33)))
    assert further.of("weights") == pytest.approx(plan.of("weights"), rel=1e-3)
    weights = [
        sum(p.bytes for p in one.parts if (p.part, p.device) == ("weights", "CUDA0"))
        for one in (plan, further)
    ]
    assert weights[1] > weights[0] or layers == 33


@given(st.floats(1, 100), st.floats(0.1, 20))
@settings(max_examples=20)
def test_more_memory_never_gives_fewer_layers(size: float, more: float) -> None:
    few, many = (fit_on(one)[0].most_layers(8192) for one in (size, size + more))
    assert few is not None
    assert many is not None
    assert many.n_gpu_layers >= few.n_gpu_layers


@given(st.integers(64, 2048), st.integers(1, 2048))
@settings(max_examples=30)
def test_larger_pictures_take_more(size: int, more: int) -> None:
    small = plan_memory(MODEL, TOWER, replace(on(80), image_size=size))
    large = plan_memory(MODEL, TOWER, replace(on(80), image_size=size + more))
    for part in ("vision_encoder", "vision_compute"):
        assert large.of(part) >= small.of(part)
