"""The vision tower: weights, compute buffer at the chosen resolution, cache of embeddings."""

from __future__ import annotations

from typing import Final

from server.gguf.model_header import TowerHeader
from server.memory.estimate.inputs import PlannedPart, PlanSettings, padded
from server.memory.estimate.vision_graph import VisionShape, vision_bytes
from server.memory.estimate.weights import CPU

LLAVA: Final = frozenset({"mlp", "mlp_norm", "ldp", "ldpv2"})
POOLED: Final = frozenset({"ldp", "ldpv2"})
_NEWLINES: Final = ("model.image_newline", "v.image_newline")
# What libmtmd allows at most where neither the file nor a setting says (clip.cpp).
_MOST: Final = 4096
# Patches along a side that become one token, where the file does not say.
_JOINED: Final = {"gemma3": 4, "idefics3": 3, "internvl": 2, "llama4": 2}
# Towers whose pictures may have any size, 2 x 2 patches a token (pixtral's file says).
_ANY_SIZE: Final = frozenset(
    {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "pixtral", "lightonocr", "kimivl"}
    | {"kimik25", "lfm2", "glm4v", "glm5v", "hunyuanvl", "youtuvl", "dots_ocr", "paddleocr"}
)


def projector(tower: TowerHeader) -> str:
    """The projector's type, under either key."""
    return tower.text("clip.projector_type") or tower.text("clip.vision.projector_type")


def side(tower: TowerHeader, settings: PlanSettings) -> int:
    """Pixels along the square that the tower computes."""
    if is_resized(tower, settings) and settings.image_size:
        return settings.image_size
    return tower.number("clip.vision.image_size", 0, most=1 << 14)


def patch(tower: TowerHeader) -> int:
    """Pixels along a patch."""
    return tower.number("clip.vision.patch_size", 14, most=1 << 14) or 14


def is_resized(tower: TowerHeader, settings: PlanSettings) -> bool:
    """Whether ``image_size`` means this tower: those of any size are not rewritten."""
    return settings.image_size is not None and projector(tower) in LLAVA


def patches(tower: TowerHeader, settings: PlanSettings) -> int:
    """Patches of the largest square or picture that is computed at once."""
    if projector(tower) in _ANY_SIZE:
        return _most_tokens(tower, settings) * joined(tower) ** 2
    return max(side(tower, settings) // patch(tower), 1) ** 2


def patches_at_once(tower: TowerHeader, settings: PlanSettings) -> int:
    """Patches of all pictures that are encoded together; LLaVA's graph takes one at a time."""
    if projector(tower) in LLAVA:
        return patches(tower, settings)
    return max(patches(tower, settings), settings.image_batch_tokens * joined(tower) ** 2)


def joined(tower: TowerHeader) -> int:
    """Patches along a side that become one token."""
    kind = projector(tower)
    if kind in POOLED:
        return 2
    if kind in LLAVA:
        return 1
    default = 2 if kind in _ANY_SIZE else _JOINED.get(kind, 1)
    found = tower.number("clip.vision.spatial_merge_size", 0, most=64)
    return found or tower.number("clip.vision.projector.scale_factor", default, most=64) or 1


def image_tokens(tower: TowerHeader, settings: PlanSettings) -> int:
    """The most tokens that one picture takes, tiles and the ends of their rows included."""
    tokens = max(patches(tower, settings) // joined(tower) ** 2, 1)
    found = [tokens, *(_tiled(tower, tokens, *size) for size in _pinpoints(tower))]
    return max(found)


def _tiled(tower: TowerHeader, tokens: int, columns: int, rows: int) -> int:
    """The overview and the tiles of a picture that fills them."""
    newlines = any(name in tower.by_name for name in _NEWLINES)
    edge = int(tokens**0.5)
    return tokens * (1 + columns * rows) + (rows * edge if newlines else 0)


def _pinpoints(tower: TowerHeader) -> list[tuple[int, int]]:
    """Columns and rows of tiles that a picture may be cut to."""
    edge = side(tower, _NATIVE)
    flat = tower.metadata.get("clip.vision.image_grid_pinpoints")
    if projector(tower) not in LLAVA or not edge or not isinstance(flat, list):
        return []
    tiles = [max(1, round(size / edge)) for size in flat if type(size) is int and size > 0]
    return list(zip(tiles[::2], tiles[1::2], strict=False))


def _most_tokens(tower: TowerHeader, settings: PlanSettings) -> int:
    if settings.image_max_tokens:
        return settings.image_max_tokens
    pixels = tower.number("clip.vision.image_max_pixels")
    if pixels:
        return max(pixels // (patch(tower) * joined(tower)) ** 2, 1)
    if projector(tower) == "pixtral":
        return max(side(tower, settings) // (patch(tower) * joined(tower)), 1) ** 2
    return _MOST


_NATIVE: Final = PlanSettings(devices=())


_POSITIONS: Final = "v.position_embd.weight"
_CLASS: Final = "v.class_embd"
# Whose graphs are those of vision_graph.py, as measured (docs/memory.md).
_EXACT: Final = frozenset({"mlp", "ldpv2"})
_F32: Final = 4
_ALIGNMENT: Final = 64


def tower_parts(tower: TowerHeader | None, settings: PlanSettings) -> list[PlannedPart]:
    """The tower's parts; none without a tower."""
    if tower is None:
        return []
    on_gpu = bool(settings.mmproj_offload and settings.gpus)
    device = _gpu(settings) if on_gpu else CPU
    shape = vision_shape(tower, settings)
    guess = on_gpu or projector(tower) not in _EXACT
    return [
        PlannedPart("vision_encoder", device, tower_bytes(tower, settings)),
        PlannedPart("vision_compute", device, vision_bytes(shape), guess),
        PlannedPart("image_cache", CPU, settings.image_cache_bytes),
    ]


def _gpu(settings: PlanSettings) -> str:
    """The GPU of the tower: the main one."""
    gpus = settings.gpus
    return gpus[min(settings.main_gpu, len(gpus) - 1)].name


def tower_bytes(tower: TowerHeader, settings: PlanSettings) -> int:
    """Bytes of the weights; a changed resolution changes the table of positions."""
    size = sum(padded(tensor.n_bytes, _ALIGNMENT) for tensor in tower.tensors)
    table = tower.by_name.get(_POSITIONS)
    if table is None or not is_resized(tower, settings):
        return size
    shape = vision_shape(tower, settings)
    rows = shape.rows + shape.class_token
    return size - padded(table.n_bytes, _ALIGNMENT) + padded(rows * shape.n_embd * _F32, _ALIGNMENT)


def vision_shape(tower: TowerHeader, settings: PlanSettings) -> VisionShape:
    """The largest square that the tower will compute."""
    rows = patches_at_once(tower, settings)
    width = tower.number("clip.vision.embedding_length")
    return VisionShape(
        pixels=side(tower, settings) ** 2 or rows * patch(tower) ** 2,
        patch=patch(tower),
        rows=rows,
        class_token=_CLASS in tower.by_name,
        pre_norm="v.pre_ln.weight" in tower.by_name,
        post_norm="v.post_ln.weight" in tower.by_name,
        n_embd=width,
        n_ff=_ff(tower),
        n_head=tower.number("clip.vision.attention.head_count"),
        gated="v.blk.0.ffn_gate.weight" in tower.by_name,
        hidden=_width(tower, ("mm.0.weight", "mm.model.mlp.0.weight", "mm.model.mlp.1.weight")),
        out=_width(tower, ("mm.2.weight", "mm.model.mlp.2.weight", "mm.model.mlp.3.weight")),
        pooled=projector(tower) in POOLED,
        flash_attn=True,
    )


def _width(tower: TowerHeader, names: tuple[str, ...]) -> int:
    for name in names:
        tensor = tower.by_name.get(name)
        if tensor and len(tensor.shape) > 1:
            return tensor.shape[1]
    return tower.number("clip.vision.projection_dim")


def _ff(tower: TowerHeader) -> int:
    found = {"ffn_up", "ffn_down"}
    sizes = (tower.by_name.get(f"v.blk.0.{name}.weight") for name in found)
    widths = [max(tensor.shape) for tensor in sizes if tensor and len(tensor.shape) > 1]
    return max([tower.number("clip.vision.feed_forward_length"), *widths])
