"""Prepared towers through the real libmtmd: what LLaVA was trained on, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from mtmd import N_OUT, Mtmd, open_mtmd
from numpy.typing import NDArray
from tower_files import cosines, make_tower, picture, read_keys, read_weights

from scripts.synthetic.files import write_mmproj
from scripts.synthetic.shapes import PRESETS
from server.errors import ConfigError
from server.mmproj.faults import Faults, TowerFaults, repair_rows
from server.mmproj.layout import TowerShape
from server.mmproj.prepare import PreparedTower, prepare
from server.mmproj.reference import project
from server.mmproj.rewrite import resample_positions
from server.mmproj.self_test import find_faults

ALL = ("class_position", "dropped_patch", "skipped_layer")
CLIP = TowerShape(56, 14, 32, 2, 64, 3, 32, N_OUT)
SHAPES = {
    "clip": CLIP,
    "siglip": replace(CLIP, class_token=False),
    "clip, tiled": replace(CLIP, pinpoints=((56, 112), (112, 112))),
    "siglip, tiled": replace(CLIP, class_token=False, pinpoints=((56, 112), (112, 112))),
}


@pytest.fixture(scope="module")
def mtmd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mtmd]:
    with open_mtmd(tmp_path_factory.mktemp("mtmd")) as opened:
        yield opened


@pytest.fixture(scope="module")
def faults(mtmd: Mtmd, tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return find_faults(mtmd.encode, N_OUT, tmp_path_factory.mktemp("self-test"))


def encode(mtmd: Mtmd, tower: PreparedTower, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The rows as the engine gives them to the language model."""
    rows = mtmd.encode(tower.path, rgb)
    return repair_rows(rows, tower.n_patches) if tower.repair else rows


@pytest.mark.parametrize("kind", SHAPES)
def test_every_patch_is_as_trained(kind: str, mtmd: Mtmd, faults: Faults, tmp_path: Path) -> None:
    shape = SHAPES[kind]
    path = tmp_path / "mmproj.gguf"
    weights = make_tower(path, shape)
    tower = prepare(path, faults=faults, fix=True, image_size=None, cache_dir=tmp_path)
    rgb = picture(56)
    rows = encode(mtmd, tower, rgb)
    expected = project(weights, shape, rgb)
    assert len(rows) == tower.n_patches == 16
    likeness = cosines(rows, expected)
    assert likeness[1:].min() >= 0.9999
    if shape.class_token:  # the stand-in is the neighbour
        assert cosines(rows[:1], expected[1:2]).min() >= 0.9999
    else:
        assert likeness[0] >= 0.9999


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_without_the_fix_it_is_not(kind: str, mtmd: Mtmd, faults: Faults, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    weights = make_tower(path, SHAPES[kind])
    tower = prepare(path, faults=faults, fix=False, image_size=None, cache_dir=tmp_path)
    assert (tower.path, tower.repair, tower.undone) == (path, False, ())
    assert tower.faults == (ALL if kind == "clip" else ALL[2:])
    assert "--llava-fix off" in tower.reasons[0]
    assert not (tmp_path / "towers").exists()
    rgb = picture(56)
    rows = encode(mtmd, tower, rgb)
    assert cosines(rows, project(weights, SHAPES[kind], rgb)).mean() < 0.97


@pytest.mark.parametrize(
    "undone",
    [
        TowerFaults(class_position=True, dropped_patch=True),
        TowerFaults(class_position=True, skipped_layer=True),
        TowerFaults(dropped_patch=True, skipped_layer=True),
    ],
)
def test_each_fault_is_needed(undone: TowerFaults, mtmd: Mtmd, tmp_path: Path) -> None:
    """With one of the three left as it is, the rows are wrong: each undoing does its part."""
    path = tmp_path / "mmproj.gguf"
    weights = make_tower(path, CLIP)
    tower = prepare(path, faults=Faults(undone), fix=True, image_size=None, cache_dir=tmp_path)
    assert tower.undone == undone.names()
    rgb = picture(56)
    rows = encode(mtmd, tower, rgb)
    assert cosines(rows, project(weights, CLIP, rgb))[1:].mean() < 0.97
    left = TowerFaults(*(not getattr(undone, name) for name in ALL))
    simulated = project(weights, CLIP, rgb, left)
    assert cosines(rows, simulated)[1:].min() >= 0.9999


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_fewer_tokens(
    class_token: bool, quant: str, mtmd: Mtmd, faults: Faults, tmp_path: Path
) -> None:
    """336 to 224 px: 576 to 256 tokens, and all of them as the resampled tower has them."""
    preset = PRESETS["tiny-336"]
    preset = replace(preset, tower=replace(preset.tower, class_token=class_token))
    path = tmp_path / "mmproj.gguf"
    write_mmproj(path, "x", preset, GGMLQuantizationType[quant], 1)
    tower = prepare(path, faults=faults, fix=True, image_size=224, cache_dir=tmp_path)
    assert (tower.image_size, tower.n_patches, tower.facts.image_size) == (224, 256, 336)
    assert any("256 tokens a square, not 576" in reason for reason in tower.reasons)
    rows = encode(mtmd, tower, picture(224))
    weights, shape = read_weights(path), replace(preset.tower, image_size=224)
    table = resample_positions(weights["v.position_embd.weight"], 24, 16, class_token=class_token)
    weights["v.position_embd.weight"] = table
    likeness = cosines(rows, project(weights, shape, picture(224)))
    # libmtmd rounds activations to 8 bits before it multiplies them with 8-bit weights.
    assert likeness[int(class_token) :].min() >= (0.9999 if quant == "F16" else 0.998)


def test_resolution_alone_leaves_the_faults(mtmd: Mtmd, faults: Faults, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    make_tower(path, CLIP)
    tower = prepare(path, faults=faults, fix=False, image_size=84, cache_dir=tmp_path)
    assert (tower.repair, tower.undone, tower.faults) == (False, (), ALL)
    assert len(mtmd.encode(tower.path, picture(84))) == tower.n_patches == 36


def test_tiles_are_ours_to_cut(mtmd: Mtmd, faults: Faults, tmp_path: Path) -> None:
    """libmtmd gets squares, whatever comes; the shapes to cut to follow the resolution."""
    path = tmp_path / "mmproj.gguf"
    make_tower(path, SHAPES["clip, tiled"])
    tower = prepare(path, faults=faults, fix=True, image_size=28, cache_dir=tmp_path)
    assert tower.pinpoints == ((28, 56), (56, 56))
    assert "clip.vision.image_grid_pinpoints" not in read_keys(tower.path)
    assert len(mtmd.encode(tower.path, picture(56))) == tower.n_patches == 4


def test_pooling_projectors_lose_their_first_patch(
    mtmd: Mtmd, faults: Faults, tmp_path: Path
) -> None:
    """MobileVLM: positions and layers are put right, the lost row cannot be."""
    path = tmp_path / "mmproj.gguf"
    preset = PRESETS["tiny-pools"]
    write_mmproj(path, "x", preset, GGMLQuantizationType.F16, 1)
    tower = prepare(path, faults=faults, fix=True, image_size=None, cache_dir=tmp_path)
    assert (tower.faults, tower.undone, tower.repair) == (ALL, (ALL[0], ALL[2]), False)
    assert "cannot be undone for projector 'ldpv2': dropped_patch" in tower.reasons[1]
    rows = mtmd.encode(tower.path, picture(336))
    assert rows.shape == (tower.n_patches, N_OUT) == (144, N_OUT)
    assert cosines(rows, pooled(path, preset.tower, dropped_patch=True)).min() >= 0.9999
    assert cosines(rows, pooled(path, preset.tower, dropped_patch=False)).min() < 0.9999
    with pytest.raises(ConfigError, match="336 px only"):
        prepare(path, faults=faults, fix=True, image_size=224, cache_dir=tmp_path)


def pooled(path: Path, shape: TowerShape, *, dropped_patch: bool) -> NDArray[np.float32]:
    """MobileVLM-V2's projector: linear, GELU, linear, 2 x 2 means, a 3 x 3 convolution added."""
    weights = {name.replace("model.mlp.", ""): w for name, w in read_weights(path).items()}
    simulated = TowerFaults(dropped_patch=dropped_patch)
    grid = project(weights, shape, picture(336), simulated).reshape(12, 2, 12, 2, -1).mean((1, 3))
    padded = np.pad(grid, ((1, 1), (1, 1), (0, 0)))
    kernel = weights["mm.model.peg.0.weight"]
    result = grid + weights["mm.model.peg.0.bias"]
    for y in range(3):
        for x in range(3):
            result = result + padded[y : y + 12, x : x + 12] * kernel[:, 0, y, x]
    return np.asarray(result.reshape(144, -1))
