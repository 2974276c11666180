"""What the fit says: why each setting became what it is, and why nothing would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from server.memory.fit.pools import Pool
from server.memory.fit.search_space import CELLS_A_SLOT, Placement, SearchSpace
from server.messages import FitDecision
from server.sizes import in_words

# Bytes too many by device of a placement, empty where it fits.
Excess = Callable[[Placement], dict[str, int]]


class Prediction(Protocol):
    """What a placement will take (``server.memory.plan.MemoryPlan``)."""

    def on(self, device: str) -> int:
        """Bytes on one device."""
        ...


def explain(space: SearchSpace, found: Placement, excess: Excess) -> tuple[FitDecision, ...]:
    """A decision for each setting that was left on auto, the most valued first."""
    return (
        *_layers(space, found, excess),
        *_encoder(space, found, excess),
        *_context(space, found, excess),
        *_cache(space, found, excess),
        *_slots(space, found),
    )


def _layers(space: SearchSpace, found: Placement, excess: Excess) -> Iterator[FitDecision]:
    if space.options.n_gpu_layers is not None:
        return
    value = str(found.n_gpu_layers)
    if not space.gpus:
        yield FitDecision("--n-gpu-layers", value, "no GPU that this llama.cpp can use: all in RAM")
    elif found.n_gpu_layers == space.layers:
        yield FitDecision("--n-gpu-layers", value, "all layers fit")
    else:
        more = replace(found, n_gpu_layers=found.n_gpu_layers + 1, use_gpu=True, tensor_split=())
        yield FitDecision("--n-gpu-layers", value, f"of {space.layers}; {_too_much(more, excess)}")
    if len(space.gpus) > 1 and found.n_gpu_layers and not space.options.tensor_split:
        counts = ",".join(f"{count:.0f}" for count in found.tensor_split)
        yield FitDecision("--tensor-split", counts, "layers for each GPU, by the room it has")


def _encoder(space: SearchSpace, found: Placement, excess: Excess) -> Iterator[FitDecision]:
    if space.options.mmproj_offload is not None or not space.has_tower:
        return
    if found.encoder_on_gpu:
        yield FitDecision("--mmproj-offload", "gpu", "the vision tower fits beside the layers")
    elif not space.gpus:
        yield FitDecision("--mmproj-offload", "cpu", "no GPU that this llama.cpp can use")
    else:
        why = _too_much(replace(found, encoder_on_gpu=True), excess)
        yield FitDecision("--mmproj-offload", "cpu", f"on the GPU, {why}")


def _context(space: SearchSpace, found: Placement, excess: Excess) -> Iterator[FitDecision]:
    if space.ctx_size is not None:
        return
    most, _ = space.contexts()
    larger = replace(found, ctx_size=most)
    if found.ctx_size >= most:
        why = f"at least {CELLS_A_SLOT} cells a slot"
    elif excess(larger):
        why = f"of {most}; with those, {_too_much(larger, excess)}"
    else:
        why = f"of {most}; what is left on the GPU is kept for layers and the vision tower"
    yield FitDecision("--ctx-size", str(found.ctx_size), why)


def _cache(space: SearchSpace, found: Placement, excess: Excess) -> Iterator[FitDecision]:
    full = space.caches()[0]
    low = (found.cache_type_k, found.cache_type_v) != full
    why = "it fits"
    if low:
        better = replace(found, cache_type_k=full[0], cache_type_v=full[1])
        why = f"as f16, {_too_much(better, excess)}"
    if space.options.cache_type_k is None:
        yield FitDecision("--cache-type-k", found.cache_type_k, why)
    if space.options.cache_type_v is None:
        yield FitDecision("--cache-type-v", found.cache_type_v, why)


def _slots(space: SearchSpace, found: Placement) -> Iterator[FitDecision]:
    if space.parallel is None:
        why = f"{CELLS_A_SLOT} cells or more for each"
        yield FitDecision("--parallel", str(found.parallel), why)


def _too_much(placement: Placement, excess: Excess) -> str:
    over = excess(placement)
    if not over:
        return "the layers could not be spread over the GPUs"
    most = max(over, key=lambda name: over[name])
    return f"{most} would lack {in_words(over[most])}"


def refuse(space: SearchSpace, least: Prediction, pools: Sequence[Pool]) -> str:
    """Why nothing fits: the figures of the least that the settings allow, and what to change."""
    low = space.caches()[-1]
    cache = f", even with a KV cache in {'/'.join(dict.fromkeys(low))}"
    even = cache if low != space.caches()[0] else ""
    lacking = [
        f"{pool.devices[0]} would need {in_words(pool.room + pool.excess(least.on))} and has"
        f" {in_words(pool.room)} to give beside a margin of {in_words(pool.margin)}"
        for pool in pools
        if pool.excess(least.on) > 0
    ]
    return (
        f"the model does not fit{even}: {'; '.join(lacking) or 'no split over the GPUs does'};"
        f" {_advice(space)}, or start anyway with --fit off"
    )


def _advice(space: SearchSpace) -> str:
    options = space.options
    given = {
        "--ctx-size": space.ctx_size,
        "--parallel": space.parallel,
        "--n-gpu-layers": options.n_gpu_layers if space.gpus else None,
        "--mmproj-offload": options.mmproj_offload or None,
        "--cache-type-k": options.cache_type_k,
        "--cache-type-v": options.cache_type_v,
        "--tensor-split": options.tensor_split or None,
    }
    mine = [flag for flag, value in given.items() if value is not None]
    if mine:
        return f"lower {', '.join(mine)} or leave it on auto"
    return "take a smaller quantization of the model"
