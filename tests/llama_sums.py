"""llama.cpp's own sums of what it allocated, for tests alone.

``llama_get_memory_breakdown`` (src/llama-ext.h) is C++: it returns a ``std::map`` by value. Here
its tree is walked as libstdc++ lays it out (bits/stl_tree.h), which no server should depend on.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp

_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"


class _Map(ctypes.Structure):
    """std::_Rb_tree: a comparison, the header node, the number of nodes."""

    _fields_ = (
        ("compare", ctypes.c_size_t),
        ("colour", ctypes.c_size_t),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


class _Node(ctypes.Structure):
    """A node with its key, a buffer type, and llama_memory_breakdown_data."""

    _fields_ = (
        ("colour", ctypes.c_size_t),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        ("model", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    )


def _library() -> Any:
    return ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libllama.so"))


def available() -> bool:
    """Whether this llama.cpp is a libstdc++ build that has the function."""
    try:
        return hasattr(_library(), _SYMBOL)
    except OSError:
        return False


def sums(context: Any) -> dict[str, int]:
    """Bytes of model, context and compute buffers over all devices."""
    function = getattr(_library(), _SYMBOL)
    function.restype, function.argtypes = _Map, [ctypes.c_void_p]
    found = list(_nodes(function(context).root))
    return {
        kind: sum(getattr(node, kind) for node in found) for kind in ("model", "context", "compute")
    }


def _nodes(address: int | None) -> Iterator[_Node]:
    if address:
        node = _Node.from_address(address)
        yield from _nodes(node.left)
        yield node
        yield from _nodes(node.right)
