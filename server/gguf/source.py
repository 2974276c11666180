"""Where the bytes of a header come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Source(Protocol):
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
