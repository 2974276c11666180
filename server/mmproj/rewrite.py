"""Rewriting an mmproj file: other positions, other keys, every other byte as it was.

The position table of a ViT for another resolution.

Computed as torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=shrinks)
does: that is what models are trained and fine-tuned with. When shrinking, the cubic (a = -0.5) is
as wide as the old patches that fall on a new one, and its weights at the border sum to 1 (Pillow's
way); when enlarging, the cubic (a = -0.75) spans four patches, and the border patch is repeated.
"""

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
from server.gguf.file import GGUFFile, Tensor, open_gguf
from server.mmproj import layout
from server.mmproj.facts import TowerFacts, facts_of

_Matrix = NDArray[np.float64]


def resample_positions(
    table: NDArray[np.float32], old: int, new: int, *, class_token: bool
) -> NDArray[np.float32]:
    """The table [class_token + old**2, width] for a grid of ``new`` x ``new`` patches.

    The class token's row, the first one, stays as it is.
    """
    head, body = table[: int(class_token)], table[int(class_token) :]
    weights = _shrink(old, new) if new < old else _enlarge(old, new)
    grid = body.reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("yi,xj,ijc->yxc", weights, weights, grid, optimize=True)
    return np.concatenate([head, grid.reshape(new * new, -1)]).astype(np.float32)


def _shrink(old: int, new: int) -> _Matrix:
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distances = np.abs(np.arange(old)[None] + 0.5 - centres) / scale
    weights = _cubic(distances, -0.5)
    result: _Matrix = weights / weights.sum(1, keepdims=True)
    return result


def _enlarge(old: int, new: int) -> _Matrix:
    places = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places).astype(int) - 1
    weights = np.zeros((new, old))
    for step in range(4):
        columns = np.clip(first + step, 0, old - 1)
        values = _cubic(np.abs(places - first - step), -0.75)
        np.add.at(weights, (np.arange(new), columns), values)
    return weights


def _cubic(x: _Matrix, a: float) -> _Matrix:
    """Keys' convolution kernel of distances (Keys, 1981)."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


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
    facts = facts_of(mmproj, file.header)
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
