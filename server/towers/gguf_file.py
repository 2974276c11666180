"""GGUF files as they lie on the disk: metadata, tensor table, memory-mapped bytes.

The gguf package's reader trusts the lengths it reads: an array that claims 2**60 items keeps it
busy for ever. Here every length is held against the bytes that are left.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from server.errors import StartupError

_SCALARS: Final = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}
_MAX_DIMS: Final = 4


@dataclass(slots=True, frozen=True)
class Entry:
    """A metadata entry. ``raw`` is its bytes in the file: key, type and value."""

    value: Any
    raw: bytes


@dataclass(slots=True, frozen=True)
class Tensor:
    """A tensor's place: ``shape`` with the fastest dimension first, ``offset`` in the file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=object))


@dataclass(slots=True, frozen=True)
class GGUFFile:
    """An opened file; ``data`` is all of it, memory-mapped."""

    path: Path
    metadata: dict[str, Entry]
    tensors: dict[str, Tensor]
    alignment: int
    data: NDArray[np.uint8] = field(repr=False)

    def bytes_of(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [n_bytes], still on the disk."""
        return self.data[tensor.offset : tensor.offset + tensor.n_bytes]


class _MalformedError(ValueError):
    """What is wrong with the bytes, in words that complete "the file is damaged: ..."."""


def open_gguf(path: Path) -> GGUFFile:
    """Opens and checks a GGUF file of version 2 or 3; tensor data is not read.

    Raises:
        StartupError: there is no such file, or it is not a whole GGUF.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise StartupError(f"cannot read {path}: {reason}") from error
    try:
        return _parse(path, data)
    except _MalformedError as error:
        raise StartupError(
            f"{path} cannot be used: {error}; download or convert it again"
        ) from error


def _parse(path: Path, data: NDArray[np.uint8]) -> GGUFFile:
    cursor = _Cursor(data)
    if len(data) < 24 or cursor.take(4) != b"GGUF":
        raise _MalformedError("it is not a GGUF file")
    version = cursor.number("<I")
    if version not in {2, 3}:
        raise _MalformedError(f"it has GGUF version {version}, versions 2 and 3 are known")
    n_tensors, n_entries = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Entry] = {}
    for _ in range(n_entries):
        key, entry = cursor.entry()
        if key in metadata:
            raise _MalformedError(f"key {key!r} appears twice")
        metadata[key] = entry
    alignment = metadata["general.alignment"].value if "general.alignment" in metadata else 32
    if type(alignment) is not int or not 0 < alignment < 1 << 20 or alignment & (alignment - 1):
        raise _MalformedError(f"alignment {alignment!r} is no power of two")
    infos = [cursor.tensor() for _ in range(min(n_tensors, len(data)))]
    start = -(-cursor.place // alignment) * alignment
    tensors = {info.name: _placed(info, start, len(data)) for info in infos}
    if len(tensors) != n_tensors:
        raise _MalformedError("a tensor appears twice")
    return GGUFFile(path, metadata, tensors, alignment, data)


def _placed(info: Tensor, start: int, end: int) -> Tensor:
    offset = start + info.offset
    if offset + info.n_bytes > end:
        raise _MalformedError(f"it ends inside tensor {info.name!r}, the download is incomplete")
    return Tensor(info.name, info.shape, info.type, offset, info.n_bytes)


class _Cursor:
    """Reads on from ``place``, and never past the end."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self.place:
            raise _MalformedError("it ends in the middle of its header")
        self.place += count
        return self._data[self.place - count : self.place].tobytes()

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def name(self) -> str:
        try:
            return self.take(self.number("<Q")).decode()
        except UnicodeDecodeError:
            raise _MalformedError("a name in it is not UTF-8") from None

    def entry(self) -> tuple[str, Entry]:
        start = self.place
        key = self.name()
        value = self._value(self.number("<I"))
        return key, Entry(value, self._data[start : self.place].tobytes())

    def tensor(self) -> Tensor:
        name, n_dims = self.name(), self.number("<I")
        if n_dims > _MAX_DIMS:
            raise _MalformedError(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(self.number("<Q") for _ in range(n_dims))
        kind, offset = self.number("<I"), self.number("<Q")
        try:
            tensor_type = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[tensor_type]
        except (ValueError, KeyError):
            raise _MalformedError(f"tensor {name!r} has the unknown type {kind}") from None
        row = shape[0] if shape else 1
        if row % block:
            raise _MalformedError(f"tensor {name!r} has a row of {row} numbers")
        n_elements = int(np.prod(shape, dtype=object))  # Python's integers do not overflow
        return Tensor(name, shape, tensor_type, offset, n_elements // block * block_bytes)

    def _value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self.take(self.number("<Q")).decode("utf-8", "replace")
        if kind != GGUFValueType.ARRAY:
            return self.number(_form(kind))
        item, count = self.number("<I"), self.number("<Q")
        if item == GGUFValueType.STRING:
            if count > len(self._data) - self.place:
                raise _MalformedError(f"a list of {count} texts does not fit into it")
            return [self._value(item) for _ in range(count)]
        form = _form(item)
        raw = self.take(count * struct.calcsize(form))
        return [number for (number,) in struct.iter_unpack(form, raw)]


def _form(kind: int) -> str:
    try:
        return _SCALARS[GGUFValueType(kind)]
    except (ValueError, KeyError):
        raise _MalformedError(f"a value in it has the unknown type {kind}") from None
