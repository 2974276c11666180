"""Reading on from a place in a GGUF header, and never past its end."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray


class ByteSource(Protocol):
    """A file's bytes. ``read`` is asked for no byte beyond ``size``."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on."""


class ArraySource:
    """A memory-mapped file."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self._data)

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on."""
        return self._data[start : start + count].tobytes()


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
_FORMS: Final = {int(kind): form for kind, form in _SCALARS.items()}
_MAX_DIMS: Final = 4
_LENGTH: Final = struct.Struct("<Q")


class MalformedError(ValueError):
    """What is wrong with the bytes, in words that complete "the file is damaged: ..."."""


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
        return math.prod(self.shape)


@dataclass(slots=True, frozen=True)
class LongList:
    """A list that was passed over: only how many items it has is known."""

    count: int


class Cursor:
    """Reads on from ``place``. Lists of more than ``longest`` items are passed over."""

    def __init__(self, source: ByteSource, longest: int | None = None) -> None:
        self._source = source
        self._longest = longest
        self._size = source.size
        self.place = 0

    @property
    def left(self) -> int:
        """Bytes after ``place``."""
        return self._size - self.place

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        self.skip(count)
        return self._source.read(self.place - count, count)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        if count > self._size - self.place:
            raise MalformedError("it ends in the middle of its header")
        self.place += count

    def number(self, form: str) -> Any:
        """The next number, in ``struct``'s notation."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def length(self) -> int:
        """The next length: uint64."""
        return int(_LENGTH.unpack(self.take(8))[0])

    def name(self) -> str:
        """The next text, which must be valid."""
        try:
            return self.take(self.length()).decode()
        except UnicodeDecodeError:
            raise MalformedError("a name in it is not UTF-8") from None

    def bytes_from(self, start: int) -> bytes:
        """What was passed since ``start``."""
        return self._source.read(start, self.place - start)

    def tensor(self) -> Tensor:
        """The next entry of the tensor table; its offset is counted from where the data begins."""
        name, n_dims = self.name(), self.number("<I")
        if n_dims > _MAX_DIMS:
            raise MalformedError(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(self.length() for _ in range(n_dims))
        kind, offset = self.number("<I"), self.length()
        try:
            tensor_type = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[tensor_type]
        except (ValueError, KeyError):
            raise MalformedError(f"tensor {name!r} has the unknown type {kind}") from None
        row = shape[0] if shape else 1
        if row % block:
            raise MalformedError(f"tensor {name!r} has a row of {row} numbers")
        n_bytes = math.prod(shape) // int(block) * int(block_bytes)
        return Tensor(name, shape, tensor_type, offset, n_bytes)

    def value(self, kind: int) -> Any:
        """The next value of this type."""
        if kind == GGUFValueType.STRING:
            return self.take(self.length()).decode("utf-8", "replace")
        if kind != GGUFValueType.ARRAY:
            return self.number(_form(kind))
        item, count = self.number("<I"), self.length()
        passed = self._longest is not None and count > self._longest
        if item == GGUFValueType.STRING:
            if count > self.left // 8:
                raise MalformedError(f"a list of {count} texts does not fit into it")
            return self._pass_texts(count) if passed else [self.value(item) for _ in range(count)]
        form = _form(item)
        if passed:
            self.skip(count * struct.calcsize(form))
            return LongList(count)
        raw = self.take(count * struct.calcsize(form))
        return [number for (number,) in struct.iter_unpack(form, raw)]

    def _pass_texts(self, count: int) -> LongList:
        for _ in range(count):
            self.skip(self.length())
        return LongList(count)


def _form(kind: int) -> str:
    try:
        return _FORMS[kind]
    except KeyError:
        raise MalformedError(f"a value in it has the unknown type {kind}") from None
