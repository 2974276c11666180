"""Random towers, small enough to be written and run at every start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from server.towers.layout import CLASS_TOKEN, POSITIONS, TowerShape, metadata, tensor_shapes

# It tells of every file at the level of news, and the self-test's towers are none.
logging.getLogger("gguf.gguf_writer").setLevel(logging.WARNING)


def random_weights(shape: TowerShape, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights under which every position, patch and layer tells in every row of the result."""
    draw = np.random.default_rng(seed)
    weights = {}
    for name, size in tensor_shapes(shape).items():
        values = draw.standard_normal(size, np.float32)
        if name in {CLASS_TOKEN, POSITIONS}:
            values *= 2
        elif name.endswith(".bias"):
            values *= np.float32(0.1)
        elif len(size) == 1:
            values = np.float32(1) + values / np.float32(8)
        else:
            values *= np.float32(1.5 / np.sqrt(np.prod(size[1:])))
        weights[name] = values
    return weights


def write_tower(path: Path, shape: TowerShape, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes an mmproj file with these weights as they are, in 32 bits."""
    writer = GGUFWriter(path, "clip")
    write_metadata(writer, shape)
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_metadata(writer: GGUFWriter, shape: TowerShape) -> None:
    """Adds the keys of such a tower to a file that is being written."""
    for key, value in metadata(shape).items():
        if isinstance(value, bool):  # first: a bool is an int to Python
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
