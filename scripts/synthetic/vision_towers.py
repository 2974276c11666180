"""Vision towers of other kinds than LLaVA's, as libmtmd loads them (tools/mtmd/clip.cpp)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Shapes = dict[str, tuple[int, ...]]


@dataclass(slots=True, frozen=True)
class VisionTower:
    """A tower and its projector; ``keys`` are its kind's own, "clip.vision." left out.

    ``grid`` is the side of its position table, 0 where it has none.
    """

    projector: str
    image_size: int
    grid: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    patch_size: int = 14
    width: int = 32
    heads: int = 2
    feed_forward: int = 64
    layers: int = 2
    silu: bool = False
    merge: int = 2

    def tensors(self, n_out: int) -> Shapes:
        """Every tensor with its shape in NumPy's order, for a language model of that width."""
        return _KINDS[self.projector](self, n_out)


def _vit(
    tower: VisionTower, *, biases: bool = True, gated: bool = False, fused: bool = False
) -> Shapes:
    """Patches and layers; ``biases`` of norms and matrices, a ``gated`` feed-forward."""
    d, ff, p = tower.width, tower.feed_forward, tower.patch_size
    shapes: Shapes = {"v.patch_embd.weight": (d, 3, p, p)}
    for layer in range(tower.layers):
        block = f"v.blk.{layer}"
        shapes |= _norm(f"{block}.ln1", d, biases) | _norm(f"{block}.ln2", d, biases)
        sizes = {"attn_qkv": (3 * d, d)} if fused else {f"attn_{name}": (d, d) for name in "qkv"}
        sizes |= {"attn_out": (d, d), "ffn_up": (ff, d), "ffn_down": (d, ff)}
        if gated:
            sizes["ffn_gate"] = (ff, d)
        for name, (n_out, n_in) in sizes.items():
            shapes |= _linear(f"{block}.{name}", n_in, n_out, biases)
    return shapes


def _linear(name: str, n_in: int, n_out: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (n_out, n_in)} | ({f"{name}.bias": (n_out,)} if bias else {})


def _norm(name: str, width: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (width,)} | ({f"{name}.bias": (width,)} if bias else {})


def _siglip(tower: VisionTower) -> Shapes:
    d = tower.width
    shapes = _vit(tower) | {"v.patch_embd.bias": (d,)} | _norm("v.post_ln", d)
    return shapes | {"v.position_embd.weight": (tower.grid**2, d)}


def _gemma3(tower: VisionTower, n_out: int) -> Shapes:
    projector = {"mm.input_projection.weight": (tower.width, n_out)}
    return _siglip(tower) | projector | {"mm.soft_emb_norm.weight": (tower.width,)}


def _gemma4(tower: VisionTower, n_out: int) -> Shapes:
    d = tower.width
    tables = {"v.position_embd.weight": (2, tower.grid, d)}  # of columns and of rows
    return _vit(tower, biases=False) | tables | {"mm.input_projection.weight": (n_out, d)}


def _idefics3(tower: VisionTower, n_out: int) -> Shapes:
    return _siglip(tower) | {"mm.model.fc.weight": (n_out, tower.width * tower.merge**2)}


def _internvl(tower: VisionTower, n_out: int) -> Shapes:
    d, merged = tower.width, tower.width * tower.merge**2
    shapes = _vit(tower) | {"v.patch_embd.bias": (d,), "v.class_embd": (d,)}
    shapes["v.position_embd.weight"] = (tower.grid**2 + 1, d)
    for layer in range(tower.layers):
        shapes |= {f"v.blk.{layer}.ls{part}.weight": (d,) for part in (1, 2)}
    projector = _norm("mm.model.mlp.0", merged) | _linear("mm.model.mlp.1", merged, n_out)
    return shapes | projector | _linear("mm.model.mlp.3", n_out, n_out)


def _pixtral(tower: VisionTower, n_out: int) -> Shapes:
    d = tower.width
    shapes = _vit(tower, biases=False, gated=True) | _norm("v.pre_ln", d, bias=False)
    shapes |= _linear("mm.1", d, n_out) | _linear("mm.2", n_out, n_out)
    return shapes | {"v.token_embd.img_break": (n_out,)}


def _minicpmv(tower: VisionTower, n_out: int) -> Shapes:
    """Its resampler's heads are 128 wide, so ``n_out`` is a multiple of that."""
    shapes = _siglip(tower)
    shapes |= {"resampler.pos_embed_k": (16, n_out), "resampler.proj.weight": (n_out, n_out)}
    shapes |= {"resampler.query": (tower.keys["minicpmv_query_num"], n_out)}
    shapes |= {"resampler.kv.weight": (n_out, tower.width)}
    for name in ("q", "k", "v", "out"):
        shapes |= _linear(f"resampler.attn.{name}", n_out, n_out)
    for name in ("q", "kv", "post"):
        shapes |= _norm(f"resampler.ln_{name}", n_out)
    return shapes


def _qwen2(tower: VisionTower, n_out: int) -> Shapes:
    new = tower.projector == "qwen2.5vl_merger"
    d, p = tower.width, tower.patch_size
    shapes = _vit(tower, gated=new) | {"v.patch_embd.weight.1": (d, 3, p, p)}
    shapes |= _norm("v.post_ln", d, bias=not new) | _linear("mm.0", 4 * d, 4 * d)
    shapes |= _linear("mm.2", 4 * d, n_out)
    # The newer one's norms are without bias, its matrices are not.
    dropped = {f"v.blk.{i}.ln{part}.bias" for i in range(tower.layers) for part in (1, 2)}
    return {name: size for name, size in shapes.items() if not (new and name in dropped)}


def _qwen3(tower: VisionTower, n_out: int) -> Shapes:
    d, p = tower.width, tower.patch_size
    shapes = _vit(tower, fused=True) | {"v.patch_embd.weight.1": (d, 3, p, p)}
    shapes |= {"v.patch_embd.bias": (d,), "v.position_embd.weight": (tower.grid**2, d)}
    shapes |= _norm("v.post_ln", d) | _linear("mm.0", 4 * d, 4 * d) | _linear("mm.2", 4 * d, n_out)
    stack = "v.deepstack.0"  # after the first layer, to be added in the language model's first
    shapes |= _norm(f"{stack}.norm", 4 * d) | _linear(f"{stack}.fc1", 4 * d, 4 * d)
    return shapes | _linear(f"{stack}.fc2", 4 * d, n_out)


_KINDS: dict[str, Callable[[VisionTower, int], Shapes]] = {
    "gemma3": _gemma3,
    "gemma4v": _gemma4,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "pixtral": _pixtral,
    "resampler": _minicpmv,
    "qwen2vl_merger": _qwen2,
    "qwen2.5vl_merger": _qwen2,
    "qwen3vl_merger": _qwen3,
}
