"""GGUF files as they lie on the disk: metadata, tensor table, memory-mapped bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.gguf.cursor import MalformedError, Tensor
from server.gguf.header import Entry, parse_header
from server.gguf.local import map_file, unusable
from server.gguf.source import ArraySource

__all__ = ["Entry", "GGUFFile", "Tensor", "open_gguf"]


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


def open_gguf(path: Path) -> GGUFFile:
    """Opens and checks a GGUF file of version 2 or 3; tensor data is not read.

    Raises:
        StartupError: there is no such file, or it is not a whole GGUF.
    """
    data = map_file(path)
    try:
        header = parse_header(ArraySource(data))
    except MalformedError as error:
        raise unusable(path, error) from error
    return GGUFFile(path, header.metadata, header.tensors, header.alignment, data)
