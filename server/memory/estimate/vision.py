"""The vision tower: weights, compute buffer at the chosen resolution, cache of embeddings."""

from __future__ import annotations

import math
from typing import Final

from server.gguf.model_header import TowerHeader
from server.memory.estimate.inputs import PlannedPart, PlanSettings, padded
from server.memory.estimate.vision_graph import VisionShape, vision_bytes
from server.memory.estimate.vision_other import ConvShape, GemmaShape, conv_bytes, gemma_bytes
from server.memory.estimate.weights import CPU
from server.projectors import largest_grid, projector_of

_NEWLINES: Final = ("model.image_newline", "v.image_newline")
_POSITIONS: Final = "v.position_embd.weight"
_CLASS: Final = "v.class_embd"
# Whose graphs are followed tensor by tensor, as measured (docs/memory.md).
_EXACT: Final = frozenset({"mlp", "ldpv2", "gemma4v", "yasa2"})
_F32: Final = 4
_ALIGNMENT: Final = 64
_NATIVE: Final = PlanSettings(devices=())


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
    return settings.image_size is not None and projector_of(tower.projector).llava


def merge(tower: TowerHeader) -> int:
    """Patches along a side that become one token."""
    known = projector_of(tower.projector)
    if known.llava:
        return known.merge
    found = tower.number("clip.vision.spatial_merge_size", 0, most=64)
    return found or tower.number("clip.vision.projector.scale_factor", known.merge, most=64) or 1


def patches(tower: TowerHeader, settings: PlanSettings) -> int:
    """Patches of the largest square or picture that is computed at once."""
    if projector_of(tower.projector).any_size:
        rows, columns = largest_grid(_most_tokens(tower, settings))
        return rows * columns * merge(tower) ** 2
    return max(side(tower, settings) // patch(tower), 1) ** 2


def patches_at_once(tower: TowerHeader, settings: PlanSettings) -> int:
    """Patches of all pictures that are encoded together, where the tower's graph takes several."""
    one = patches(tower, settings)
    if not projector_of(tower.projector).batches:
        return one
    together = settings.image_batch_tokens * merge(tower) ** 2
    return max(one, together // one * one)


def square_tokens(tower: TowerHeader, settings: PlanSettings) -> int:
    """The tokens of one square, or of the largest picture of a tower of any size."""
    known = projector_of(tower.projector)
    if tower.projector == "gemma3nv":
        # clip_n_output_tokens: its adapter always gives a grid of 16 x 16.
        return max(side(tower, settings) // patch(tower), 1)
    if tower.projector == "resampler":
        version = tower.number("clip.minicpmv_version", 2)
        return tower.number("clip.minicpmv_query_num") or (96 if version == 2 else known.tokens)
    return known.tokens or max(patches(tower, settings) // merge(tower) ** 2, 1)


def image_tokens(tower: TowerHeader, settings: PlanSettings) -> int:
    """The most tokens that one picture takes, tiles and the ends of their rows included."""
    tokens = square_tokens(tower, settings)
    return max([tokens, *(_tiled(tower, tokens, *size) for size in _pinpoints(tower))])


def _tiled(tower: TowerHeader, tokens: int, columns: int, rows: int) -> int:
    """The overview and the tiles of a picture that fills them."""
    newlines = any(name in tower.by_name for name in _NEWLINES)
    edge = int(tokens**0.5)
    return tokens * (1 + columns * rows) + (rows * edge if newlines else 0)


def _pinpoints(tower: TowerHeader) -> list[tuple[int, int]]:
    """Columns and rows of tiles that a picture may be cut to."""
    edge = side(tower, _NATIVE)
    flat = tower.metadata.get("clip.vision.image_grid_pinpoints")
    if not projector_of(tower.projector).llava or not edge or not isinstance(flat, list):
        return []
    tiles = [max(1, round(size / edge)) for size in flat if type(size) is int and size > 0]
    return list(zip(tiles[::2], tiles[1::2], strict=False))


def _most_tokens(tower: TowerHeader, settings: PlanSettings) -> int:
    """What bounds the tokens of a picture: a setting, the file, libmtmd; and its size."""
    known, unit = projector_of(tower.projector), patch(tower) * merge(tower)
    pixels = tower.number("clip.vision.image_max_pixels")
    if settings.image_max_tokens and known.bounded:
        most = settings.image_max_tokens
    else:
        most = pixels // unit**2 if pixels and not known.fixed_bound else known.most_tokens
    if tower.projector == "lightonocr":  # its pictures are bounded by their longer edge
        edge = tower.number("clip.vision.preproc_image_size") or side(tower, settings)
        most = min(most, max(edge // unit, 1) ** 2)
    if settings.image_max_edge:
        least = settings.image_min_tokens or 0
        most = min(most, max(math.ceil(settings.image_max_edge / unit) ** 2, least))
    return max(most, 1)


def tower_parts(tower: TowerHeader | None, settings: PlanSettings) -> list[PlannedPart]:
    """The tower's parts; none without a tower."""
    if tower is None:
        return []
    on_gpu = bool(settings.mmproj_offload and settings.gpus)
    device = _gpu(settings) if on_gpu else CPU
    batched = patches_at_once(tower, settings) > patches(tower, settings)
    guess = on_gpu or batched or tower.projector not in _EXACT
    # Whichever device computes, the processor fills the graph's input.
    return [
        PlannedPart("vision_encoder", device, tower_bytes(tower, settings)),
        PlannedPart("vision_compute", device, compute_bytes(tower, settings), guess),
        *(
            [PlannedPart("vision_compute", CPU, 3 * _F32 * _pixels(tower, settings), guess)]
            if on_gpu
            else []
        ),
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


def compute_bytes(tower: TowerHeader, settings: PlanSettings) -> int:
    """Bytes of the buffer that the tower computes in."""
    if tower.projector == "gemma4v":
        return gemma_bytes(_gemma_shape(tower, settings))
    if tower.projector == "yasa2":
        return conv_bytes(_conv_shape(tower, settings))
    if tower.projector == "gemma3nv":
        return _mobilenet_bytes(tower, settings)
    return vision_bytes(vision_shape(tower, settings))


def _gemma_shape(tower: TowerHeader, settings: PlanSettings) -> GemmaShape:
    return GemmaShape(
        rows=patches_at_once(tower, settings),
        merge=merge(tower),
        patch=patch(tower),
        n_embd=tower.number("clip.vision.embedding_length"),
        n_ff=_ff(tower),
        n_head=tower.number("clip.vision.attention.head_count"),
        gated="v.blk.0.ffn_gate.weight" in tower.by_name,
        per_head_norm="v.blk.0.attn_q_norm.weight" in tower.by_name,
        out=_width(tower, ("mm.input_projection.weight",)),
        flash_attn=settings.flash_attn,
    )


def _conv_shape(tower: TowerHeader, settings: PlanSettings) -> ConvShape:
    """Channels and blocks of each stage, read from the tensors' names."""
    stages: list[tuple[int, int]] = []
    while block := tower.by_name.get(f"v.stage.{len(stages)}.blk.0.pw1.weight"):
        prefix = f"v.stage.{len(stages)}.blk."
        names = {name.split(".")[4] for name in tower.by_name if name.startswith(prefix)}
        stages.append((block.shape[0], len(names)))
    return ConvShape(
        side=side(tower, settings),
        patch=patch(tower),
        stages=tuple(stages) or ((tower.number("clip.vision.embedding_length"), 1),),
        hidden=_width(tower, ("mm.0.weight",)),
        out=_width(tower, ("mm.2.weight",)),
    )


def _mobilenet_bytes(tower: TowerHeader, settings: PlanSettings) -> int:
    """Three of the first stage's results, the largest of a MobileNet. Not measured."""
    stem = tower.by_name.get("v.conv_stem.conv.weight")
    channels = stem.shape[-1] if stem else 64
    return 3 * (side(tower, settings) // 2) ** 2 * channels * _F32


def _pixels(tower: TowerHeader, settings: PlanSettings) -> int:
    if projector_of(tower.projector).llava:
        return side(tower, settings) ** 2
    return patches_at_once(tower, settings) * patch(tower) ** 2


def vision_shape(tower: TowerHeader, settings: PlanSettings) -> VisionShape:
    """The largest square that the tower will compute."""
    rows = patches_at_once(tower, settings)
    width = tower.number("clip.vision.embedding_length")
    known = projector_of(tower.projector)
    return VisionShape(
        pixels=_pixels(tower, settings),
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
        pooled=known.llava and known.merge > 1,
        flash_attn=settings.flash_attn,
        windowed=known.windowed,
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
