"""Towers for the tests: written, read back by the gguf package, and run as a libmtmd would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from server.mmproj.faults import TowerFaults
from server.mmproj.layout import TowerShape, tensor_shapes
from server.mmproj.reference import project, random_weights, write_tower

Array = NDArray[np.float32]


def picture(edge: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise, uint8 [edge, edge, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (edge, edge, 3), np.uint8)


def make_tower(path: Path, shape: TowerShape, seed: int = 5) -> dict[str, Array]:
    """Writes a random tower and returns its weights."""
    weights = random_weights(shape, seed)
    write_tower(path, shape, weights)
    return weights


def read_weights(path: Path) -> dict[str, Array]:
    """All tensors in NumPy's order, read by the gguf package and not by our own reader."""
    return {
        tensor.name: np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(
            tuple(reversed(tensor.shape.tolist()))
        )
        for tensor in GGUFReader(path).tensors
    }


def read_keys(path: Path) -> dict[str, object]:
    """All metadata, read by the gguf package."""
    fields = GGUFReader(path).fields.items()
    return {key: field.contents() for key, field in fields if not key.startswith("GGUF.")}


def cosines(rows: Array, expected: Array) -> Array:
    """Row by row."""
    norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(expected, axis=-1)
    return np.asarray((rows * expected).sum(-1) / norms)


@dataclass(slots=True)
class FakeMtmd:
    """A libmtmd of another day, with its own faults; reads the file like the real one."""

    with_class: TowerFaults
    without_class: TowerFaults
    obeys_feature_layer: bool = True

    def encode(self, mmproj: Path, rgb: NDArray[np.uint8]) -> Array:
        """The rows of one square."""
        weights, keys = read_weights(mmproj), read_keys(mmproj)
        has_class = "v.class_embd" in weights
        shape = TowerShape(
            image_size=int(str(keys["clip.vision.image_size"])),
            patch_size=int(str(keys["clip.vision.patch_size"])),
            width=int(str(keys["clip.vision.embedding_length"])),
            heads=int(str(keys["clip.vision.attention.head_count"])),
            feed_forward=int(str(keys["clip.vision.feed_forward_length"])),
            layers=int(str(keys["clip.vision.block_count"])),
            hidden=weights["mm.0.bias"].size,
            n_out=weights["mm.2.bias"].size,
            class_token=has_class,
        )
        assert tensor_shapes(shape) == {name: array.shape for name, array in weights.items()}
        faults = self.with_class if has_class else self.without_class
        told = self.obeys_feature_layer and "clip.vision.feature_layer" in keys
        skipped = faults.skipped_layer and not told
        return project(
            weights, shape, rgb, TowerFaults(faults.class_position, faults.dropped_patch, skipped)
        )
