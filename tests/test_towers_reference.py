"""The NumPy reference against PyTorch, and against what a person can work out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server.mmproj.faults import TowerFaults
from server.mmproj.layout import CLASS_TOKEN, POSITIONS, TowerShape
from server.mmproj.reference import project

FIXTURE = Path(__file__).parent / "fixtures" / "towers" / "torch.npz"  # made by make.py beside it


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_agrees_with_pytorch(kind: str) -> None:
    arrays = np.load(FIXTURE)
    weights = {
        name.removeprefix(f"{kind}/"): arrays[name]
        for name in arrays.files
        if name.startswith(f"{kind}/")
    }
    shape = TowerShape(12, 4, 16, 2, 32, 2, 16, 8, class_token=kind == "clip")
    rows = project(weights, shape, arrays[f"{kind}.rgb"])
    assert rows.dtype == np.float32
    assert rows.shape == (9, 8)
    np.testing.assert_allclose(rows, arrays[f"{kind}.rows"], rtol=1e-4, atol=1e-5)


def hand_made() -> tuple[TowerShape, dict[str, NDArray[np.float32]]]:
    """A tower without layers, that shows the first two numbers of each place's position."""
    shape = TowerShape(4, 2, 4, 1, 4, 0, 2, 2)
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    weights = {
        CLASS_TOKEN: zero,
        POSITIONS: np.float32(
            [[0, 0, 3, -3], [9, 1, 0, 0], [9, 2, 0, 0], [9, 3, 0, 0], [9, 4, 0, 0]]
        ),
        "v.patch_embd.weight": np.zeros((4, 3, 2, 2), np.float32),
        "v.pre_ln.weight": one,
        "v.pre_ln.bias": zero,
        "mm.0.weight": 100 * np.eye(2, 4, dtype=np.float32),  # GELU leaves what is large alone
        "mm.0.bias": np.full(2, 300, np.float32),
        "mm.2.weight": np.eye(2, dtype=np.float32) / 100,
        "mm.2.bias": np.full(2, -3, np.float32),
    }
    return shape, weights


def normed(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    spread = (sum((value - mean) ** 2 for value in values) / len(values) + 1e-5) ** 0.5
    return [(value - mean) / spread for value in values[:2]]


@pytest.mark.parametrize(
    ("faults", "places"),
    [
        (TowerFaults(), [1, 2, 3, 4]),
        (TowerFaults(class_position=True), [0, 1, 2, 3]),
        (TowerFaults(dropped_patch=True), [2, 3, 4, 0]),
        (TowerFaults(class_position=True, dropped_patch=True), [1, 2, 3, 4]),
    ],
)
def test_each_row_has_its_place(faults: TowerFaults, places: list[int]) -> None:
    """Without layers and picture, a row is its position alone: the faults shift it."""
    shape, weights = hand_made()
    rows = project(weights, shape, np.zeros((4, 4, 3), np.uint8), faults)
    expected = [normed(weights[POSITIONS][place].tolist()) for place in places]
    np.testing.assert_allclose(rows, expected, atol=1e-4)
