"""Names, keys and shapes of a CLIP tower with LLaVA's projector in an mmproj file.

As llama.cpp's converters write them (tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py)
and libmtmd reads them (tools/mtmd/clip-impl.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROJECTOR_TYPE: Final = "clip.projector_type"
VISION_PROJECTOR_TYPE: Final = "clip.vision.projector_type"
HAS_VISION: Final = "clip.has_vision_encoder"
HAS_AUDIO: Final = "clip.has_audio_encoder"
USE_GELU: Final = "clip.use_gelu"
USE_SILU: Final = "clip.use_silu"
IMAGE_SIZE: Final = "clip.vision.image_size"
PATCH_SIZE: Final = "clip.vision.patch_size"
WIDTH: Final = "clip.vision.embedding_length"
FEED_FORWARD: Final = "clip.vision.feed_forward_length"
LAYERS: Final = "clip.vision.block_count"
HEADS: Final = "clip.vision.attention.head_count"
EPSILON: Final = "clip.vision.attention.layer_norm_epsilon"
PROJECTION: Final = "clip.vision.projection_dim"
FEATURE_LAYER: Final = "clip.vision.feature_layer"
PINPOINTS: Final = "clip.vision.image_grid_pinpoints"
MERGE_TYPE: Final = "clip.vision.mm_patch_merge_type"
IMAGE_MEAN: Final = "clip.vision.image_mean"
IMAGE_STD: Final = "clip.vision.image_std"

CLASS_TOKEN: Final = "v.class_embd"  # noqa: S105 (no password)
POSITIONS: Final = "v.position_embd.weight"
PATCHES: Final = "v.patch_embd.weight"
POST_NORM: Final = "v.post_ln.weight"
# LLaVA-1.6's embedding after each row of tiles, as the older and the newer converter name it.
NEWLINES: Final = ("model.image_newline", "v.image_newline")

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(slots=True, frozen=True)
class TowerShape:
    """The sizes of a tower and its projector; ``layers`` are those stored in the file.

    ``hidden`` is the width between the projector's two layers, ``n_out`` the language model's.
    Edges in pixels. ``pinpoints`` are the (width, height) that LLaVA-1.6 may tile a picture to.
    """

    image_size: int
    patch_size: int
    width: int
    heads: int
    feed_forward: int
    layers: int
    hidden: int
    n_out: int
    class_token: bool = True
    pinpoints: tuple[tuple[int, int], ...] = ()
    epsilon: float = 1e-5

    @property
    def n_patches(self) -> int:
        """Patches of one square."""
        return (self.image_size // self.patch_size) ** 2


def tensor_shapes(shape: TowerShape) -> dict[str, tuple[int, ...]]:
    """Every tensor with its shape in NumPy's order (slowest first)."""
    d, ff = shape.width, shape.feed_forward
    shapes: dict[str, tuple[int, ...]] = {
        PATCHES: (d, 3, shape.patch_size, shape.patch_size),
        POSITIONS: (shape.n_patches + shape.class_token, d),
    }
    if shape.class_token:
        shapes[CLASS_TOKEN] = (d,)
    else:
        shapes["v.patch_embd.bias"] = (d,)  # SigLIP's convolution has a bias, CLIP's has none
    norms = ["v.pre_ln"] if shape.class_token else []  # and SigLIP has no norm in front
    for layer in range(shape.layers):
        block = f"v.blk.{layer}"
        norms += [f"{block}.ln1", f"{block}.ln2"]
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes |= _linear(f"{block}.{name}", d, d)
        shapes |= _linear(f"{block}.ffn_up", d, ff) | _linear(f"{block}.ffn_down", ff, d)
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (d,)
    return shapes | _linear("mm.0", d, shape.hidden) | _linear("mm.2", shape.hidden, shape.n_out)


def _linear(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def metadata(shape: TowerShape) -> dict[str, str | bool | int | float | list[int] | list[float]]:
    """The keys of such a file; integers are uint32, lists int32 or float32.

    Towers without a class token are SigLIP's and use GELU, CLIP's use the quick one.
    """
    keys: dict[str, str | bool | int | float | list[int] | list[float]] = {
        "clip.has_text_encoder": False,
        HAS_VISION: True,
        "clip.has_llava_projector": True,
        PROJECTOR_TYPE: "mlp",
        USE_GELU: not shape.class_token,
        IMAGE_SIZE: shape.image_size,
        PATCH_SIZE: shape.patch_size,
        WIDTH: shape.width,
        FEED_FORWARD: shape.feed_forward,
        PROJECTION: shape.n_out,
        HEADS: shape.heads,
        EPSILON: shape.epsilon,
        LAYERS: shape.layers,
        IMAGE_MEAN: list(CLIP_MEAN),
        IMAGE_STD: list(CLIP_STD),
    }
    if shape.pinpoints:
        keys[PINPOINTS] = [edge for point in shape.pinpoints for edge in point]
    return keys
