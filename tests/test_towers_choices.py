"""What is prepared, what is left alone, what is refused: decisions that need no libmtmd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tower_files import make_tower, read_keys

from server.errors import ConfigError
from server.mmproj.facts import FULL_DEPTH, read_facts
from server.mmproj.faults import Faults, TowerFaults
from server.mmproj.layout import TowerShape
from server.mmproj.prepare import prepare
from server.mmproj.reference import random_weights, write_tower

ALL = ("class_position", "dropped_patch", "skipped_layer")
CLIP = TowerShape(56, 14, 32, 2, 64, 3, 32, 64)
FAULTS = Faults(TowerFaults(True, True, True), TowerFaults(skipped_layer=True))


@pytest.mark.parametrize("class_token", [True, False])
def test_nothing_is_written_for_a_mended_libmtmd(class_token: bool, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    make_tower(path, replace(CLIP, class_token=class_token))
    tower = prepare(path, faults=Faults(), fix=True, image_size=None, cache_dir=tmp_path)
    assert (tower.path, tower.repair, tower.faults, tower.undone) == (path, False, (), ())
    assert tower.reasons == ("LLaVA: this llama.cpp computes the tower as it was trained",)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_undone_for_an_unknown_libmtmd(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    make_tower(path, CLIP)
    unknown = Faults(TowerFaults(unknown=True))
    tower = prepare(path, faults=unknown, fix=True, image_size=None, cache_dir=tmp_path)
    assert (tower.path, tower.faults, tower.undone) == (path, ("unknown",), ())


def test_layers_that_the_file_names_are_left_alone(tmp_path: Path) -> None:
    """Granite Vision and newer conversions say which layers to take."""
    path, named = tmp_path / "mmproj.gguf", tmp_path / "named.gguf"
    make_tower(path, CLIP)
    only_layers = Faults(TowerFaults(skipped_layer=True))
    first = prepare(path, faults=only_layers, fix=True, image_size=None, cache_dir=tmp_path)
    assert read_keys(first.path)["clip.vision.feature_layer"] == [3]
    first.path.rename(named)
    again = prepare(named, faults=FAULTS, fix=True, image_size=None, cache_dir=tmp_path)
    assert again.faults == again.undone == ALL[:2]
    assert "names the layers to take features from (3)" in again.reasons[0]


def test_a_whole_tower_needs_its_last_layer_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If width 32 were known for three layers, none would be missing from this file."""
    monkeypatch.setitem(FULL_DEPTH, 32, 3)
    path = tmp_path / "mmproj.gguf"
    make_tower(path, CLIP)
    tower = prepare(path, faults=FAULTS, fix=True, image_size=None, cache_dir=tmp_path)
    assert tower.undone == ALL[:2]
    assert "holds all 3 layers" in tower.reasons[0]


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (57, "multiples of 14 from 28 to 224 .* nearest is 56 or 70"),
        (14, "nearest is 28"),
        (0, "nearest is 28"),
        (-56, "nearest is 28"),
        (10**9, "nearest is 224"),
    ],
)
def test_a_wrong_size_is_told_the_nearest(size: int, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    make_tower(path, CLIP)
    with pytest.raises(ConfigError, match=f"--image-size {size}: .*{told}"):
        prepare(path, faults=Faults(), fix=True, image_size=size, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_its_own_size_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    make_tower(path, CLIP)
    assert prepare(path, faults=Faults(), fix=True, image_size=56, cache_dir=tmp_path).path == path


def test_a_norm_after_the_tower_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    norm = {"v.post_ln.weight": np.ones(32, np.float32), "v.post_ln.bias": np.zeros(32, np.float32)}
    write_tower(path, CLIP, random_weights(CLIP, 0) | norm)
    tower = prepare(path, faults=FAULTS, fix=True, image_size=None, cache_dir=tmp_path)
    assert tower.undone == ALL
    assert "v.post_ln" in tower.reasons[0]


def test_other_projectors_are_none_of_its_business(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    make_tower(path, CLIP)
    content = path.read_bytes()
    assert content.count(b"mlp") == 1
    path.write_bytes(content.replace(b"mlp", b"abc"))
    facts = read_facts(path)
    assert (facts.projector_type, facts.n_out) == ("abc", 0)
    assert not facts.is_llava
    assert not facts.fixed
    tower = prepare(path, faults=FAULTS, fix=True, image_size=None, cache_dir=tmp_path)
    assert (tower.path, tower.faults, tower.reasons) == (path, (), ())
    with pytest.raises(ConfigError, match=r"--image-size: .* 'abc'"):
        prepare(path, faults=FAULTS, fix=True, image_size=28, cache_dir=tmp_path)


def test_yis_projector_is_told_by_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    third = {"mm.3.weight": np.ones((24, 64), np.float32), "mm.3.bias": np.ones(24, np.float32)}
    write_tower(path, CLIP, random_weights(CLIP, 0) | third)
    facts = read_facts(path)
    assert (facts.projector_type, facts.n_out, facts.is_llava) == ("mlp_norm", 24, True)
