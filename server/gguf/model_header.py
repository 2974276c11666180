"""What the headers of the two GGUF files say: all that the plan is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from server.errors import StartupError
from server.gguf.cursor import LongList
from server.gguf.file import read_header
from server.gguf.header import GGUFHeader
from server.gguf.split import split_names

_LAYER: Final = re.compile(r"^blk\.(\d+)\.")
_MOST_LAYERS: Final = 512  # llama.cpp's LLAMA_MAX_LAYERS
_MOST: Final = 1 << 40


@dataclass(slots=True, frozen=True)
class TensorInfo:
    """A tensor without its data: ``shape``, fastest dimension first, ``type`` as ``Q4_K``."""

    name: str
    shape: tuple[int, ...]
    type: str
    n_bytes: int

    @property
    def layer(self) -> int | None:
        """The layer that it belongs to; None for embeddings, output and what else stands alone."""
        found = _LAYER.match(self.name)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Header:
    """Metadata and tensor table of a model, all parts of a split one together.

    A metadata value of a wrong type or an absurd size reads as if the key were not there: what
    llama.cpp makes of such a file is not for the plan to say.
    """

    name: str
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    def number(self, key: str, default: int = 0, *, most: int = _MOST) -> int:
        """A whole number that is not negative."""
        value = self.metadata.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        return value if type(value) is int and 0 <= value <= most else default

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else default


@dataclass(frozen=True)
class ModelHeader(Header):
    """The header of a language model."""

    @cached_property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture: ``llama``, ``qwen2``, ..."""
        return self.text("general.architecture", "unknown")

    @cached_property
    def by_layer(self) -> dict[int, list[TensorInfo]]:
        """The tensors of each layer."""
        found: dict[int, list[TensorInfo]] = {}
        for tensor in self.tensors:
            if (layer := tensor.layer) is not None:
                found.setdefault(layer, []).append(tensor)
        return found

    def key(self, name: str, default: int = 0) -> int:
        """The architecture's whole number ``name``: ``context_length``, ..."""
        return self.number(f"{self.architecture}.{name}", default)

    def per_layer(self, name: str, default: int | list[int]) -> list[int]:
        """A number that may differ by layer; ``default`` where the file does not say."""
        value = self.metadata.get(f"{self.architecture}.{name}")
        if isinstance(value, list) and len(value) >= self.n_layer_all:
            return [_sane(item) for item in value[: self.n_layer_all]]
        if isinstance(value, int):
            return [_sane(value)] * self.n_layer_all
        return default if isinstance(default, list) else [default] * self.n_layer_all

    @cached_property
    def n_layer_all(self) -> int:
        """Layers of the file, those that predict further tokens (MTP) included."""
        return min(self.key("block_count"), _MOST_LAYERS)

    @cached_property
    def n_layer(self) -> int:
        """Layers that every token passes; the output layer is not counted."""
        return self.n_layer_all - min(self.key("nextn_predict_layers"), self.n_layer_all)

    @cached_property
    def n_embd(self) -> int:
        """The width."""
        return self.key("embedding_length")

    @cached_property
    def n_ctx_train(self) -> int:
        """The context that it was trained for."""
        return self.key("context_length")

    @cached_property
    def n_vocab(self) -> int:
        """Pieces of the vocabulary."""
        for name in ("output.weight", "token_embd.weight"):
            tensor = self.by_name.get(name)
            if tensor and len(tensor.shape) > 1:
                return tensor.shape[1]
        return self.key("vocab_size")


def _sane(value: Any) -> int:
    return int(value) if isinstance(value, int) and 0 <= value <= _MOST else 0


@dataclass(frozen=True)
class TowerHeader(Header):
    """The header of a mmproj."""

    @cached_property
    def projector(self) -> str:
        """libmtmd's name of the projector."""
        name = self.text("clip.projector_type") or self.text("clip.vision.projector_type")
        # libmtmd recognizes Yi's projector by its tensors (clip.cpp).
        return "mlp_norm" if name == "mlp" and "mm.3.weight" in self.by_name else name


# The vocabulary is long and says nothing of memory but its length; layers are at most 512.
LONGEST: Final = 4096


def read_model_header(path: Path) -> ModelHeader:
    """The header of a language model; of a split one, give the first part.

    Raises:
        StartupError: a file is missing or damaged, or holds no language model.
    """
    parts = [read_header(part, longest=LONGEST) for part in split_parts(path)]
    return model_header(path.name, parts)


def read_tower_header(path: Path) -> TowerHeader:
    """The header of a mmproj.

    Raises:
        StartupError: the file is missing or damaged, or holds no vision tower.
    """
    return tower_header(path.name, read_header(path))


def split_parts(path: Path) -> list[Path]:
    """All parts of a split model, or the one file.

    Raises:
        StartupError: a part is not there.
    """
    parts = [path.with_name(name) for name in split_names(path.name)]
    for part in parts:
        if not part.is_file():
            raise StartupError(f"cannot read {part}: no such file")
    return parts


def model_header(name: str, parts: Sequence[GGUFHeader]) -> ModelHeader:
    """The header of a language model from those of its parts; the first has the metadata.

    Raises:
        StartupError: it is no language model, or a part is missing.
    """
    header = ModelHeader(name, _plain(parts[0]), _tensors(parts))
    expected = header.number("split.count", 1)
    if expected > len(parts):
        raise StartupError(f"{name} is one of {expected} parts; the others must lie beside it")
    if header.architecture == "clip":
        raise StartupError(f"{name} is a mmproj, give it with --mmproj; MODEL is a language model")
    if not header.n_layer_all or not header.n_embd:
        raise StartupError(f"{name} is no language model that llama.cpp can load")
    return header


def is_mmproj(file: GGUFHeader) -> bool:
    """Whether it is the header of a mmproj, by its architecture."""
    entry = file.metadata.get("general.architecture")
    return entry is not None and entry.value == "clip"


def tower_header(name: str, file: GGUFHeader) -> TowerHeader:
    """The header of a mmproj from its file's.

    Raises:
        StartupError: it holds no vision tower.
    """
    header = TowerHeader(name, _plain(file), _tensors([file]))
    if header.metadata.get("clip.has_vision_encoder") is not True:
        raise StartupError(
            f"{name} holds no vision tower; give --mmproj the mmproj GGUF of a LLaVA"
        )
    return header


def _plain(file: GGUFHeader) -> dict[str, object]:
    values = {key: entry.value for key, entry in file.metadata.items()}
    return {key: v.count if isinstance(v, LongList) else v for key, v in values.items()}


def _tensors(parts: Sequence[GGUFHeader]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(tensor.name, tensor.shape, tensor.type.name, tensor.n_bytes)
        for part in parts
        for tensor in part.tensors.values()
    )
