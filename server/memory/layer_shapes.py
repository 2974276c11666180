"""Widths of every layer's tensors, read from the tensor table where it has them."""

from __future__ import annotations

from server.memory.attention import slides
from server.memory.cells import layer_heads, window_cells
from server.memory.graph import LayerShape
from server.memory.header import ModelHeader
from server.memory.settings import PlanSettings

_QUANTIZED = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"})


def layer_shapes(model: ModelHeader, settings: PlanSettings) -> tuple[LayerShape, ...]:
    """The shapes of all layers that a token passes."""
    heads = layer_heads(model)
    n_head = model.per_layer("attention.head_count", 0)
    slide = slides(model)
    small = window_cells(model, settings)
    first = n_head[0] if n_head else 0
    head = model.n_embd // first if first else 0
    head_k = model.key("attention.key_length", head)
    head_v = model.key("attention.value_length", head)
    experts = model.key("expert_count")
    used = model.per_layer("expert_used_count", 0)
    found = []
    for il in range(model.n_layer or model.n_layer_all):
        block = f"blk.{il}."
        routed = f"{block}ffn_gate_inp.weight" in model.by_name and experts
        found.append(
            LayerShape(
                q=_width(model, f"{block}attn_q.weight", n_head[il] * head_k),
                k=heads[il].k,
                v=heads[il].v or heads[il].k,
                out=n_head[il] * head_v,
                heads=n_head[il],
                ff=_ff(model, block, il),
                cells=small if slide[il] else settings.cells,
                gated=f"{block}ffn_gate.weight" in model.by_name,
                biased=f"{block}attn_q.bias" in model.by_name,
                fused_qkv=f"{block}attn_qkv.weight" in model.by_name,
                experts=experts if routed else 0,
                experts_used=used[il] if routed else 0,
                expert_ff=_expert_ff(model, block) if routed else 0,
                rotate_k=settings.cache_type_k in _QUANTIZED and head_k % 64 == 0,
                rotate_v=settings.cache_type_v in _QUANTIZED and head_v % 64 == 0,
                cast_k=settings.cache_type_k == "f32",
                cast_v=settings.cache_type_v == "f32",
                mask=int(slide[il]),
            )
        )
    return tuple(found)


def _width(model: ModelHeader, name: str, default: int) -> int:
    tensor = model.by_name.get(name)
    return tensor.shape[1] if tensor and len(tensor.shape) > 1 else default


def _ff(model: ModelHeader, block: str, layer: int) -> int:
    wide = model.per_layer("feed_forward_length", 0)[layer]
    return _width(model, f"{block}ffn_up.weight", wide)


def _expert_ff(model: ModelHeader, block: str) -> int:
    tensor = model.by_name.get(f"{block}ffn_up_exps.weight")
    if tensor and len(tensor.shape) > 1:
        return tensor.shape[1]
    return model.key("expert_feed_forward_length", model.key("feed_forward_length"))
