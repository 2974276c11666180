"""The fit, on machines that are not here: examples by hand, then properties of all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_fakes import GIB, MIB, FakeModel, gpu, make_fit, ram

from server.errors import OutOfMemory
from server.memory.fit.fit import Fit, Fitted
from server.memory.fit.search_space import Placement

# 33 layers of 120 MiB, 4 KiB a cell and layer, 700 MiB of tower, 200 MiB of buffers:
# 16384 cells take 33 * 64 MiB = 2112 MiB, the whole model 3960 + 2112 + 900 MiB.


def words(fitted: Fitted) -> dict[str, str]:
    return {decision.setting: decision.reason for decision in fitted.decisions}


def values(fitted: Fitted) -> dict[str, str]:
    return {decision.setting: decision.value for decision in fitted.decisions}


def test_a_large_card_takes_everything() -> None:
    fitted = make_fit((gpu(free=24 * GIB), ram())).best()
    assert fitted.placement == Placement(33, 16384, 8, encoder_on_gpu=True)
    assert words(fitted) == {
        "--n-gpu-layers": "all layers fit",
        "--mmproj-offload": "the vision tower fits beside the layers",
        "--ctx-size": "at least 2048 cells a slot",
        "--cache-type-k": "it fits",
        "--cache-type-v": "it fits",
        "--parallel": "2048 cells or more for each",
    }


# Each is what lies on the card, its margin of 512 MiB, and not much more.
@pytest.mark.parametrize(
    ("free", "expected", "reason"),
    [
        # Everything: 3960 + 2112 + 900.
        (7500 * MIB, Placement(33, 16384, 8, True), {}),
        # The cache's type goes first: 3960 + 1188 + 900.
        (
            7000 * MIB,
            Placement(33, 16384, 8, True, "q8_0", "q8_0"),
            {"--cache-type-k": "as f16, CUDA0 would lack 484 MiB"},
        ),
        # Then cells: 3960 + 900 leave 628 MiB, and 256 cells take 18.6 MiB.
        (
            6000 * MIB,
            Placement(33, 8448, 4, True, "q8_0", "q8_0"),
            {"--ctx-size": "of 16384; with those, CUDA0 would lack 560 MiB"},
        ),
        # Down to what a machine without a GPU has, then the tower goes.
        (
            5400 * MIB,
            Placement(33, 8192, 4, False, "q8_0", "q8_0"),
            {"--mmproj-offload": "on the GPU, CUDA0 would lack"},
        ),
        # Then layers, and never cells: a context of 2048 for two layers more is no bargain.
        (
            3000 * MIB,
            Placement(16, 8192, 4, False, "q8_0", "q8_0"),
            {"--n-gpu-layers": "of 33; CUDA0 would lack"},
        ),
        # Too little for even the buffers: no GPU at all, and the RAM has room for all.
        (600 * MIB, Placement(0, 8192, 4, False, use_gpu=False), {}),
    ],
)
def test_what_is_valued_least_is_given_up_first(
    free: int, expected: Placement, reason: dict[str, str]
) -> None:
    fitted = make_fit((gpu(free=free), ram()), margin=512 * MIB).best()
    assert fitted.placement == expected
    told = words(fitted)
    assert all(told[flag].startswith(start) for flag, start in reason.items()), told


def test_without_a_gpu_the_ram_is_filled_and_the_words_say_so() -> None:
    fitted = make_fit((ram(16 * GIB),)).best()
    assert fitted.placement == Placement(0, 8192, 4, encoder_on_gpu=False, use_gpu=False)
    assert words(fitted)["--n-gpu-layers"] == "no GPU that this llama.cpp can use: all in RAM"
    tight = make_fit((ram(5700 * MIB),), margin=0).best()
    assert (tight.placement.cache_type_k, tight.placement.ctx_size) == ("q8_0", 8192)
    assert words(tight)["--cache-type-k"].startswith("as f16, CPU would lack")
    tighter = make_fit((ram(5200 * MIB),), margin=0).best()
    assert tighter.placement.ctx_size == 4608


def test_what_cannot_fit_is_refused_with_figures() -> None:
    with pytest.raises(OutOfMemory) as caught:
        make_fit((ram(4 * GIB),), margin=512 * MIB).best()
    assert caught.value.message == (
        "the model does not fit, even with a KV cache in q8_0: CPU would need 4.89 GiB and has"
        " 3.50 GiB to give beside a margin of 512 MiB; take a smaller quantization of the model,"
        " or start anyway with --fit off"
    )
    with pytest.raises(OutOfMemory) as caught:
        make_fit((gpu(free=3 * GIB), ram()), n_gpu_layers=33, ctx_size=8192).best()
    assert "CUDA0 would need 4.64 GiB and has 2.62 GiB to give" in caught.value.message
    assert "lower --ctx-size, --n-gpu-layers or leave it on auto" in caught.value.message


def test_fit_off_takes_the_wishes_as_they_are() -> None:
    fitted = make_fit((gpu(free=GIB), ram(GIB)), fit=False).unfitted()
    assert fitted.placement.n_gpu_layers == 33
    assert not fitted.decisions


def test_zero_is_the_model_s_own_context() -> None:
    fitted = make_fit((ram(),), ctx_size=0, n_ctx_train=4096).best()
    assert fitted.placement.ctx_size == 4096
    assert "--ctx-size" not in values(fitted), "set, though by a word"


def test_slots_and_context_depend_on_each_other() -> None:
    assert make_fit((ram(),), parallel=16).best().placement.ctx_size == 16 * 2048
    assert make_fit((ram(),), ctx_size=4096).best().placement.parallel == 2
    assert make_fit((ram(),), ctx_size=512).best().placement.parallel == 1
    assert make_fit((ram(),), n_ctx_train=1024).best().placement.ctx_size == 8192


def test_quantized_values_are_left_where_flash_attention_is_off() -> None:
    tight = make_fit((ram(5400 * MIB),), margin=0, flash_attn=False).best()
    assert (tight.placement.cache_type_k, tight.placement.cache_type_v) == ("q8_0", "f16")


def test_one_card_s_room_does_not_help_another() -> None:
    two = make_fit((gpu(0, 4 * GIB), gpu(1, 4 * GIB), ram())).best()
    assert two.placement.n_gpu_layers == 33
    assert sum(two.placement.tensor_split) == 33
    assert values(two)["--tensor-split"] == ",".join(map(str, two.placement.tensor_split))
    uneven = make_fit((gpu(0, 1200 * MIB), gpu(1, 24 * GIB), ram())).best()
    assert uneven.placement.tensor_split == (0, 33), "beside the tower the first has no room"


def test_the_operator_s_split_is_not_changed() -> None:
    fitted = make_fit((gpu(0), gpu(1), ram()), tensor_split=(3.0, 1.0)).best()
    assert fitted.placement.tensor_split == (3.0, 1.0)
    assert "--tensor-split" not in values(fitted)


def test_an_integrated_gpu_shares_the_ram() -> None:
    shared = gpu(0, 8 * GIB, kind="igpu", name="Vulkan0")
    fitted = make_fit((shared, ram(6 * GIB)), margin=0).best()
    taken = FakeModel(gpus=("Vulkan0",)).predict(fitted.placement)
    assert taken.on("Vulkan0") + taken.on("CPU") <= 6 * GIB


def test_after_a_failure_the_next_plan_is_smaller() -> None:
    fit = make_fit((gpu(free=24 * GIB), ram()))
    first = fit.best().placement
    second = fit.smaller(first, on_gpu=True)
    assert second is not None
    assert second.placement == replace(first, cache_type_k="q8_0", cache_type_v="q8_0")
    assert words(second)["--cache-type-k"].startswith("as f16, CUDA0 would lack")
    cpu = make_fit((ram(),))
    smaller = cpu.smaller(cpu.best().placement, on_gpu=False)
    assert smaller is not None
    assert smaller.placement.cache_type_k == "q8_0"


def test_where_everything_is_the_operator_s_there_is_no_smaller_plan() -> None:
    given_: dict[str, Any] = {
        "ctx_size": 4096, "parallel": 2, "n_gpu_layers": 10, "mmproj_offload": True,
        "cache_type_k": "f16", "cache_type_v": "f16",
    }  # fmt: skip
    fit = make_fit((gpu(), ram()), **given_)
    fitted = fit.best()
    assert not fitted.decisions
    assert fit.smaller(fitted.placement, on_gpu=True) is None
    assert fit.smaller(fitted.placement, on_gpu=False) is None


sizes = st.integers(0, 40 * GIB)
models = st.builds(
    FakeModel,
    layers=st.integers(2, 40),
    layer=st.integers(1, 500 * MIB),
    tower=st.sampled_from([0, 300 * MIB, 2 * GIB]),
    compute=st.integers(0, 500 * MIB),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "ctx_size": st.sampled_from([0, 512, 4096, 20_000]),
        "parallel": st.integers(1, 32),
        "n_gpu_layers": st.integers(-1, 45),
        "mmproj_offload": st.booleans(),
        "cache_type_k": st.sampled_from(["f16", "q8_0", "f32"]),
        "cache_type_v": st.sampled_from(["f16", "q4_0"]),
        "flash_attn": st.just(True),
        "margin": st.sampled_from([0, GIB]),
    },
)


def attempt(fit: Fit) -> Fitted | None:
    try:
        return fit.best()
    except OutOfMemory:
        return None


def build(free: list[int], host: int, model: FakeModel, wished: dict[str, Any]) -> Fit:
    if not free:  # refused before any fit (server.memory.fit.planner)
        wished = {k: v for k, v in wished.items() if k not in {"n_gpu_layers", "mmproj_offload"}}
    cards = tuple(gpu(index, size) for index, size in enumerate(free))
    return make_fit((*cards, ram(host)), model=replace(model), **wished)


@settings(max_examples=150)
@given(st.lists(sizes, max_size=3), sizes, models, options)
def test_no_plan_exceeds_a_device_and_nothing_set_is_changed(
    free: list[int], host: int, model: FakeModel, wished: dict[str, Any]
) -> None:
    fit = build(free, host, model, wished)
    fitted = attempt(fit)
    if fitted is None:
        return
    found, space = fitted.placement, fit.space
    taken = fit.predict(found)
    for pool in fit.pools:
        assert sum(taken.on(name) for name in pool.devices) <= pool.room
    kept = space.options
    if kept.n_gpu_layers is not None:
        wanted = space.layers if kept.n_gpu_layers < 0 else min(kept.n_gpu_layers, space.layers)
        assert found.n_gpu_layers == wanted
    if kept.mmproj_offload is not None and space.has_tower:
        assert found.encoder_on_gpu == kept.mmproj_offload
    for one, other in (
        (kept.cache_type_k, found.cache_type_k),
        (kept.cache_type_v, found.cache_type_v),
        (space.parallel, found.parallel),
        ((space.ctx_size and -(-space.ctx_size // 256) * 256) or None, found.ctx_size),
    ):
        assert one is None or one == other
    told = {decision.setting for decision in fitted.decisions}
    assert "--n-gpu-layers" in told or kept.n_gpu_layers is not None
    assert ("--ctx-size" in told) == (space.ctx_size is None)


@settings(max_examples=100)
@given(st.lists(sizes, max_size=3), sizes, models, options, st.data())
def test_more_memory_never_gives_less_context_and_beside_it_fewer_layers(
    free: list[int], host: int, model: FakeModel, wished: dict[str, Any], data: st.DataObject
) -> None:
    """Context first: a card of 16 GiB had less of it than one of 8, for the sake of a layer."""
    fit = build(free, host, model, wished)
    more = [size + data.draw(st.integers(0, 8 * GIB)) for size in free]
    richer = build(more, host + data.draw(st.integers(0, 8 * GIB)), model, wished)
    poor, rich = attempt(fit), attempt(richer)
    if poor is None:
        return
    assert rich is not None, "what fitted before does not any more"
    one, other = poor.placement, rich.placement
    assert other.ctx_size >= one.ctx_size
    usual = fit.space.usual_context()
    if min(other.ctx_size, usual) == min(one.ctx_size, usual):
        assert other.n_gpu_layers >= one.n_gpu_layers
        if other.n_gpu_layers == one.n_gpu_layers and other.use_gpu == one.use_gpu:
            assert other.encoder_on_gpu >= one.encoder_on_gpu


def test_the_largest_context_gives_up_layers_for_cells() -> None:
    fit = make_fit((gpu(free=6 * GIB), ram()))
    largest = fit.largest_context(1 << 20)
    assert largest is not None
    assert largest.n_gpu_layers < 33
    assert largest.ctx_size > fit.best().placement.ctx_size
    assert fit.largest_context(4096) == fit.most_layers(4096)
    assert make_fit((ram(GIB),)).largest_context(1 << 20) is None


@settings(max_examples=60)
@given(st.lists(sizes, max_size=2), sizes, models, options, st.booleans())
def test_a_smaller_plan_is_smaller_where_it_failed(
    free: list[int], host: int, model: FakeModel, wished: dict[str, Any], on_gpu: bool
) -> None:
    fit = build(free, host, model, wished)
    fitted = attempt(fit)
    if fitted is None:
        return
    second = fit.smaller(fitted.placement, on_gpu=on_gpu and bool(free))
    if second is None:
        return
    before, after = fit.predict(fitted.placement), fit.predict(second.placement)
    pools = fit.pools[:-1] if on_gpu and free else fit.pools[-1:]
    for pool in pools:
        assert sum(map(after.on, pool.devices)) <= sum(map(before.on, pool.devices))
    assert second.placement != fitted.placement


def test_many_layers_on_several_cards_are_fitted_quickly() -> None:
    model = FakeModel(layers=200, layer=700 * MIB)
    cards = [gpu(index, 20 * GIB) for index in range(4)]
    make_fit((*cards, ram(256 * GIB)), model=model).best()
    assert model.calls < 20_000
