"""ggml's own way from a tensor's bytes to numbers: what ``ggml_get_rows`` calls on a CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from server.engine.bindings.devices import library

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """The beginning of ``struct ggml_type_traits`` (ggml.h)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
    )


class Dequantizer:
    """Rows of one type to float32, bit for bit as llama.cpp's graph does it on a CPU."""

    def __init__(self, kind: GGMLQuantizationType) -> None:
        """Raises LookupError where this ggml cannot do it, or has another idea of the type."""
        self._to_float: Any = None
        if kind != GGMLQuantizationType.F32:
            self._to_float = _to_float(kind)

    def __call__(self, raw: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
        """From the bytes of rows, uint8 [n, row bytes], to float32 [n, width]."""
        raw = np.ascontiguousarray(raw)
        if self._to_float is None:
            return raw.view(np.float32)
        rows = np.empty((len(raw), width), np.float32)
        # A row is a whole number of blocks, so all of them are one long row.
        self._to_float(raw.ctypes.data, rows.ctypes.data, rows.size)
        return rows


def _to_float(kind: GGMLQuantizationType) -> Any:
    try:
        get = library("ggml-base").ggml_get_type_traits
    except (OSError, AttributeError) as error:
        raise LookupError(f"ggml_get_type_traits is missing: {error}") from None
    get.restype, get.argtypes = ctypes.POINTER(_Traits), [ctypes.c_int]
    traits = get(int(kind)).contents
    # An older or newer ggml may have laid the structure out in another way.
    if (traits.blck_size, traits.type_size) != GGML_QUANT_SIZES[kind] or not traits.to_float:
        raise LookupError(f"this ggml does not turn {kind.name} into numbers")
    return traits.to_float
