"""The embedding after each row of tiles, under both its names and in any format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from gguf_files import finish

from server.errors import StartupError
from server.mmproj.facts import read_newline
from server.mmproj.layout import MERGE_TYPE, TowerShape
from server.mmproj.reference import random_weights, write_metadata

SHAPE = TowerShape(28, 14, 8, 2, 8, 1, 8, 8, pinpoints=((28, 56),))
VALUES = np.arange(8, dtype=np.float32) / 4


def write(path: Path, tensors: dict[str, np.ndarray], merge_type: str | None = None) -> Path:
    writer = GGUFWriter(path, "clip")
    write_metadata(writer, SHAPE)
    if merge_type:
        writer.add_string(MERGE_TYPE, merge_type)
    for name, values in {**random_weights(SHAPE, 0), **tensors}.items():
        writer.add_tensor(name, values)
    finish(writer)
    return path


@pytest.mark.parametrize("name", ["model.image_newline", "v.image_newline"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("merge_type", [None, "spatial_unpad"])
def test_it_is_read(name: str, dtype: type, merge_type: str | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {name: VALUES.astype(dtype)}, merge_type)
    newline = read_newline(path, 8)
    assert newline is not None
    assert newline.dtype == np.float32
    np.testing.assert_array_equal(newline, VALUES)


def test_there_may_be_none(tmp_path: Path) -> None:
    assert read_newline(write(tmp_path / "a.gguf", {}), 8) is None
    tensors = {"model.image_newline": VALUES}
    assert read_newline(write(tmp_path / "b.gguf", tensors, "flat"), 8) is None


def test_another_model_s_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {"model.image_newline": VALUES})
    with pytest.raises(StartupError, match="8 numbers where 9 are needed"):
        read_newline(path, 9)
