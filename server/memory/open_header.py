"""Headers of files on this machine, and of split models as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from server.errors import StartupError
from server.gguf.cursor import LongList
from server.gguf.header import GGUFHeader
from server.gguf.local import read_header
from server.memory.header import ModelHeader, TensorInfo, TowerHeader

# The vocabulary is long and says nothing of memory but its length; layers are at most 512.
LONGEST: Final = 4096
SPLIT: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


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
    return tower_header(path.name, read_header(path, longest=LONGEST))


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


def split_names(name: str) -> list[str]:
    """The names of all parts of the model that ``name`` is a part of."""
    found = SPLIT.search(name)
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        return [name]
    total = int(found[2])
    return [f"{name[: found.start()]}-{part:05}-of-{found[2]}.gguf" for part in range(1, total + 1)]


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
