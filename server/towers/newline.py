"""LLaVA-1.6's newline: the embedding after each row of a picture's grid of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from server.errors import StartupError
from server.towers import layout
from server.towers.gguf_file import open_gguf


def read_newline(mmproj: Path, n_out: int) -> NDArray[np.float32] | None:
    """The embedding, float32 [n_out]; None where the file has none or says not to use it.

    Raises:
        StartupError: it is not as wide as the language model.
    """
    file = open_gguf(mmproj)
    tensor = next((file.tensors[name] for name in layout.NEWLINES if name in file.tensors), None)
    merge_type = file.metadata.get(layout.MERGE_TYPE)
    if tensor is None or (merge_type is not None and merge_type.value == "flat"):
        return None
    if tensor.n_elements != n_out:
        raise StartupError(
            f"{mmproj} cannot be used: {tensor.name} has {tensor.n_elements} numbers where {n_out}"
            " are needed; convert the model again"
        )
    stored = file.bytes_of(tensor).reshape(1, -1)
    return np.asarray(dequantize(stored, tensor.type), np.float32).reshape(n_out)
