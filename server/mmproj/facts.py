"""TowerFacts: what an mmproj file says of its vision tower, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from server.errors import StartupError
from server.gguf.file import open_gguf, read_header
from server.gguf.header import GGUFHeader
from server.mmproj import layout
from server.mmproj.shapes import wrong_llava_tensor, wrong_tensor
from server.projectors import projector_of


def read_newline(mmproj: Path, n_out: int) -> NDArray[np.float32] | None:
    """The embedding, float32 [n_out]; None where the file has none or says not to use it.

    Raises:
        StartupError: it is not as wide as the language model.
    """
    file = open_gguf(mmproj)
    tensor = next((file.tensors[name] for name in layout.NEWLINES if name in file.tensors), None)
    merge_type = file.metadata.get(layout.MERGE_TYPE)
    if tensor is None or (merge_type is not None and merge_type.value == "flat"):
        return None
    if tensor.n_elements != n_out:
        raise StartupError(
            f"{mmproj} cannot be used: {tensor.name} has {tensor.n_elements} numbers where {n_out}"
            " are needed; convert the model again"
        )
    stored = file.bytes_of(tensor).reshape(1, -1)
    return np.asarray(dequantize(stored, tensor.type), np.float32).reshape(n_out)


MAX_EDGE: Final = 1 << 14


class Keys:
    """The keys of one file; a wrong type or an absurd value is a StartupError."""

    def __init__(self, name: object, header: GGUFHeader) -> None:
        self._name = name
        self._header = header

    def _value(self, key: str) -> Any:
        entry = self._header.metadata.get(key)
        return None if entry is None else entry.value

    def _refuse(self, key: str, value: object) -> StartupError:
        what = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return StartupError(
            f"{self._name} is no mmproj that llama.cpp can load: {key} {what};"
            " use the mmproj GGUF that was published with the model"
        )

    def count(self, key: str, most: int, *, least: int = 1) -> int:
        """A required whole number from ``least`` to ``most``."""
        value = self._value(key)
        if type(value) is not int or not least <= value <= most:
            raise self._refuse(key, value)
        return value

    def flag(self, key: str) -> bool:
        """Whether the key is there and true."""
        return self._value(key) is True

    def text(self, key: str) -> str:
        """A text, empty where there is none."""
        value = self._value(key)
        return value if isinstance(value, str) else ""

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers, empty where there is none."""
        value = self._value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self._refuse(key, value)
        return value

    def three(self, key: str) -> tuple[float, float, float]:
        """A required list, one number for each colour."""
        value = self._value(key)
        if not isinstance(value, list) or len(value) < 3:
            raise self._refuse(key, value)
        if not all(type(item) is float and abs(item) < 1e3 for item in value):
            raise self._refuse(key, value)
        return value[0], value[1], value[2]

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        """A flat list of edges in pixels as (width, height)."""
        value = self.integers(key)
        if len(value) % 2 or not all(0 < edge <= MAX_EDGE for edge in value):
            raise self._refuse(key, value)
        return tuple(zip(value[::2], value[1::2], strict=True))

    def projector(self) -> str:
        """The projector type, under either key."""
        name = self.text(layout.PROJECTOR_TYPE) or self.text(layout.VISION_PROJECTOR_TYPE)
        if not name:
            raise self._refuse(layout.PROJECTOR_TYPE, None)
        # libmtmd tells Yi's projector by its tensors (clip.cpp).
        return "mlp_norm" if name == "mlp" and "mm.3.weight" in self._header.tensors else name

    def activation(self) -> str:
        """``gelu``, ``silu`` or ``quick_gelu``, libmtmd's choice where nothing is said."""
        if self.flag(layout.USE_GELU):
            return "gelu"
        return "silu" if self.flag(layout.USE_SILU) else "quick_gelu"

    def last_dimension(self, name: str | None) -> int:
        """The slowest dimension of a tensor, 0 where there is none."""
        tensor = self._header.tensors.get(name) if name else None
        return tensor.shape[-1] if tensor and tensor.shape else 0


# Where each of LLaVA's projectors ends; its last dimension is the language model's width
# (clip_n_mmproj_embd).
_LAST_TENSOR: Final = {
    "mlp": "mm.2.weight",
    "mlp_norm": "mm.3.bias",
    "ldp": "mm.model.mb_block.1.block.2.1.bias",
    "ldpv2": "mm.model.peg.0.bias",
}
_LDP_GRID: Final = 24  # written into the graph, as is the 2 x 2 pooling after it
# Layers of whole towers by width: CLIP B, L, H and SigLIP so400m.
FULL_DEPTH: Final = {768: 12, 1024: 24, 1280: 32, 1152: 27}


@dataclass(slots=True, frozen=True)
class TowerFacts:
    """A vision tower and its projector as stored.

    Sizes in pixels, ``n_bytes`` of tensor data. ``n_layer`` counts the stored layers;
    ``n_out`` is the width of the language model, 0 for projectors that this room does not know.
    ``image_mean`` and ``image_std`` are of colours from 0 to 1; ``pinpoints`` are
    (width, height) that the picture may be tiled to; ``feature_layers`` are those the file sets.
    ``places``: patches along a side that the position table has rows for, where columns and rows
    of patches are looked up each for itself (Gemma 4); 0 where they are not.
    """

    name: str
    projector_type: str
    image_size: int
    patch_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    n_out: int
    has_class_token: bool
    has_post_norm: bool
    has_position_table: bool
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    activation: str
    pinpoints: tuple[tuple[int, int], ...]
    feature_layers: tuple[int, ...]
    n_params: int
    n_bytes: int
    places: int = 0

    @property
    def is_llava(self) -> bool:
        """Whether libmtmd computes it in the graph whose faults this room undoes."""
        return projector_of(self.projector_type).llava and self.has_position_table

    @property
    def pools(self) -> bool:
        """Whether the projector works on the grid (MobileVLM), so that rows are not patches."""
        known = projector_of(self.projector_type)
        return known.llava and known.merge > 1

    @property
    def fixed(self) -> bool:
        """Whether every picture becomes one square of ``image_size`` pixels."""
        return self.is_llava and not self.pinpoints

    @property
    def tiled(self) -> bool:
        """Whether large pictures become several squares (LLaVA-1.6)."""
        return self.is_llava and bool(self.pinpoints)

    @property
    def dynamic(self) -> bool:
        """Whether the tower takes pictures of any size, within bounds that can be set."""
        return projector_of(self.projector_type).bounded

    @property
    def any_size(self) -> bool:
        """Whether a picture goes through the tower in one piece, at its own size."""
        return projector_of(self.projector_type).any_size

    @property
    def stores_all_layers(self) -> bool:
        """Whether the last layer, which LLaVA does not use, was stored all the same.

        Then leaving one layer out is right. Converters drop it; a file made otherwise shows
        itself by the full depth of a known tower.
        """
        return FULL_DEPTH.get(self.n_embd) == self.n_layer

    def grid(self, image_size: int) -> int:
        """Patches along a side at another resolution."""
        return image_size // self.patch_size

    def n_tokens(self, image_size: int) -> int:
        """Rows that one square gives at another resolution."""
        return self.grid(image_size) ** 2 // (4 if self.pools else 1)


def read_facts(mmproj: Path) -> TowerFacts:
    """Reads the header of an mmproj file.

    Raises:
        StartupError: it is no GGUF, holds no vision tower, or contradicts itself in a way that
            would end llama.cpp in an assertion.
    """
    return facts_of(mmproj, read_header(mmproj))


def facts_of(path: Path, file: GGUFHeader) -> TowerFacts:
    """The facts of a header, ``path`` being its file's; raises like ``read_facts``."""
    keys = Keys(path, file)
    if not keys.flag(layout.HAS_VISION):
        what = "an audio tower alone" if keys.flag(layout.HAS_AUDIO) else "no vision tower"
        raise StartupError(
            f"{path} holds {what}; give --mmproj the mmproj GGUF of a model that sees"
        )
    projector = keys.projector()
    least = int(projector_of(projector).llava)  # towers without attention have no heads to speak of
    facts = TowerFacts(
        name=keys.text("general.name") or path.stem,
        projector_type=projector,
        image_size=keys.count(layout.IMAGE_SIZE, MAX_EDGE),
        patch_size=keys.count(layout.PATCH_SIZE, MAX_EDGE),
        n_embd=keys.count(layout.WIDTH, 1 << 16, least=least),
        n_layer=keys.count(layout.LAYERS, 1 << 10, least=least),
        n_head=keys.count(layout.HEADS, 1 << 10, least=least),
        n_ff=keys.count(layout.FEED_FORWARD, 1 << 20, least=0),  # 0 in old Qwen2-VL files
        n_out=keys.last_dimension(_LAST_TENSOR.get(projector)),
        has_class_token=layout.CLASS_TOKEN in file.tensors,
        has_post_norm=layout.POST_NORM in file.tensors,
        has_position_table=layout.POSITIONS in file.tensors,
        image_mean=keys.three(layout.IMAGE_MEAN),
        image_std=keys.three(layout.IMAGE_STD),
        activation=keys.activation(),
        pinpoints=keys.pairs(layout.PINPOINTS),
        feature_layers=tuple(keys.integers(layout.FEATURE_LAYER)),
        n_params=sum(tensor.n_elements for tensor in file.tensors.values()),
        n_bytes=sum(tensor.n_bytes for tensor in file.tensors.values()),
        places=_places(file),
    )
    if projector_of(projector).llava:
        _check_llava(path, file, facts)
    if wrong := wrong_tensor(file.tensors):
        raise _unusable(path, wrong)
    return facts


def _unusable(path: Path, problem: str) -> StartupError:
    return StartupError(f"{path} cannot be used: {problem}; convert the model again")


def _places(file: GGUFHeader) -> int:
    table = file.tensors.get(layout.POSITIONS)
    return table.shape[1] if table is not None and len(table.shape) == 3 else 0


def _check_llava(path: Path, file: GGUFHeader, facts: TowerFacts) -> None:
    """What libmtmd takes on trust: a file that breaks it would crash the engine."""
    table = file.tensors.get(layout.POSITIONS)
    grid = facts.grid(facts.image_size)
    expected = (facts.n_embd, grid**2 + facts.has_class_token)
    tensors = file.tensors
    problem = wrong_llava_tensor(tensors, facts.n_embd, facts.n_ff, facts.patch_size)
    if not grid or facts.n_embd % facts.n_head:
        problem = (
            f"a tower of {facts.image_size} pixels, patches of {facts.patch_size}, width"
            f" {facts.n_embd} and {facts.n_head} heads cannot be"
        )
    elif table is None or table.shape != expected:
        shape = table.shape if table else "missing"
        problem = f"its position table is {shape} where {expected} is needed"
    elif not facts.n_out:
        problem = f"tensor {_LAST_TENSOR[facts.projector_type]!r}, its projector's last, is missing"
    elif facts.pools and grid != _LDP_GRID:
        problem = f"llama.cpp computes projector {facts.projector_type!r} for a 24 x 24 grid only"
    if problem:
        raise _unusable(path, problem)
