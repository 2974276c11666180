"""Rewriting an mmproj file: other positions, other keys, every other byte as it was."""

from __future__ import annotations

import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize
from numpy.typing import NDArray

from server.errors import StartupError
from server.towers import layout
from server.towers.facts import TowerFacts, facts_of
from server.towers.gguf_file import GGUFFile, Tensor, open_gguf
from server.towers.resample import resample_positions

_CHUNK: Final = 1 << 22
TEMPORARY: Final = ".rewriting-"


@dataclass(slots=True, frozen=True)
class RewritePlan:
    """What to change. ``image_size`` is the new edge in pixels, None leaves it.

    ``rotate_positions`` puts the class token's row last, where libmtmd puts the class token;
    ``run_all_layers`` names the last stored layer as the one to take the features from;
    ``drop_pinpoints`` makes libmtmd take every picture as one square, for we cut the tiles.
    """

    rotate_positions: bool = False
    run_all_layers: bool = False
    image_size: int | None = None
    drop_pinpoints: bool = False

    @property
    def tag(self) -> str:
        """The plan as part of a file name, empty if nothing is to be changed."""
        parts = (
            "positions" if self.rotate_positions else "",
            "layers" if self.run_all_layers else "",
            f"{self.image_size}px" if self.image_size else "",
            "squares" if self.drop_pinpoints else "",
        )
        return "-".join(part for part in parts if part)


def rewrite(mmproj: Path, dest: Path, plan: RewritePlan) -> None:
    """Writes ``mmproj`` as ``plan`` wants it to ``dest``, whole or not at all.

    Raises:
        StartupError: the source is damaged, or ``dest`` cannot be written.
    """
    file = open_gguf(mmproj)
    facts = facts_of(file)
    table = _positions(file, facts, plan)
    try:
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=dest.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                _write(out, file, _metadata(file, facts, plan), table)
                out.flush()
                os.fsync(out.fileno())
            Path(name).replace(dest)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise StartupError(
            f"cannot write the prepared vision tower to {dest.parent}: {error.strerror};"
            f" it needs {mmproj.stat().st_size >> 20} MiB there (--cache-dir names another place)"
        ) from error


def _positions(file: GGUFFile, facts: TowerFacts, plan: RewritePlan) -> NDArray[np.float32] | None:
    """The new position table, float32 [n_positions, width]; None if it stays."""
    if not plan.rotate_positions and plan.image_size is None:
        return None
    tensor = file.tensors[layout.POSITIONS]
    stored = file.bytes_of(tensor).reshape(tensor.shape[1], -1)
    table = np.asarray(dequantize(stored, tensor.type), np.float32)
    if plan.image_size is not None:
        table = resample_positions(
            table,
            facts.grid(facts.image_size),
            facts.grid(plan.image_size),
            class_token=facts.has_class_token,
        )
    return np.roll(table, -1, axis=0) if plan.rotate_positions else table


def _metadata(file: GGUFFile, facts: TowerFacts, plan: RewritePlan) -> dict[str, bytes]:
    """Every entry's bytes, the changed ones in their old places."""
    entries = {key: entry.raw for key, entry in file.metadata.items()}
    if plan.run_all_layers:
        key = layout.FEATURE_LAYER
        entries[key] = _key(key, GGUFValueType.ARRAY) + _integers([facts.n_layer])
    if plan.image_size is not None:
        key = layout.IMAGE_SIZE
        entries[key] = _key(key, GGUFValueType.UINT32) + struct.pack("<I", plan.image_size)
    if plan.drop_pinpoints:
        entries.pop(layout.PINPOINTS, None)
    return entries


def _key(key: str, kind: GGUFValueType) -> bytes:
    return _text(key) + struct.pack("<I", kind)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _integers(values: list[int]) -> bytes:
    # int32 is the only type of list that libmtmd takes here.
    return struct.pack(f"<IQ{len(values)}i", GGUFValueType.INT32, len(values), *values)


def _write(
    out: BinaryIO, file: GGUFFile, entries: dict[str, bytes], table: NDArray[np.float32] | None
) -> None:
    tensors = [_changed(tensor, table) for tensor in file.tensors.values()]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries.values())
    offset = 0
    for tensor in tensors:
        head += _text(tensor.name)
        head += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", tensor.type, offset)
        offset += tensor.n_bytes + _padding(tensor.n_bytes, file.alignment)
    out.write(head)
    out.write(bytes(_padding(len(head), file.alignment)))
    for tensor in tensors:
        if tensor.name == layout.POSITIONS and table is not None:
            out.write(table.astype("<f4").tobytes())
        else:
            data = file.bytes_of(tensor)
            for start in range(0, len(data), _CHUNK):
                out.write(data[start : start + _CHUNK].tobytes())
        out.write(bytes(_padding(tensor.n_bytes, file.alignment)))


def _changed(tensor: Tensor, table: NDArray[np.float32] | None) -> Tensor:
    """The tensor as it will be: a changed table is written in 32 bits, whatever it was."""
    if tensor.name != layout.POSITIONS or table is None:
        return tensor
    shape = (table.shape[1], table.shape[0])
    return Tensor(tensor.name, shape, GGMLQuantizationType.F32, tensor.offset, table.nbytes)


def _padding(size: int, alignment: int) -> int:
    return -size % alignment
