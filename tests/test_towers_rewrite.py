"""Rewritten files: what must change changes, every other byte stays; and the cache of them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from PIL import Image
from tower_files import make_tower, read_keys, read_weights

from scripts.synthetic.files import write_mmproj
from scripts.synthetic.shapes import PRESETS
from server.errors import StartupError
from server.mmproj import cache as cache_module
from server.mmproj.faults import Faults, TowerFaults, repair_rows
from server.mmproj.layout import POSITIONS, TowerShape
from server.mmproj.prepare import PreparedTower, prepare
from server.mmproj.rewrite import RewritePlan, resample_positions, rewrite

SHAPE = TowerShape(56, 14, 8, 2, 8, 2, 8, 8)
FAULTS = Faults(TowerFaults(True, True, True), TowerFaults(skipped_layer=True))


def prepared(path: Path) -> PreparedTower:
    return prepare(path, faults=FAULTS, fix=True, image_size=None, cache_dir=path.parent / "cache")


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K"])
def test_all_else_stays(quant: str, tmp_path: Path) -> None:
    source, dest = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write_mmproj(source, "x", PRESETS["tiny"], GGMLQuantizationType[quant], 1)
    rewrite(source, dest, RewritePlan(rotate_positions=True, run_all_layers=True, image_size=28))
    before, after = GGUFReader(source), GGUFReader(dest)
    keys = read_keys(source)
    changed = {"clip.vision.image_size": 28, "clip.vision.feature_layer": [3]}
    assert read_keys(dest) == keys | changed
    assert [tensor.name for tensor in after.tensors] == [tensor.name for tensor in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        if old.name != POSITIONS:
            assert new.tensor_type == old.tensor_type
            assert new.data.tobytes() == old.data.tobytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.gguf", "b.gguf"]


def test_positions_are_rotated(tmp_path: Path) -> None:
    source, dest = tmp_path / "a.gguf", tmp_path / "b.gguf"
    table = make_tower(source, SHAPE)[POSITIONS]
    rewrite(source, dest, RewritePlan(rotate_positions=True))
    np.testing.assert_array_equal(read_weights(dest)[POSITIONS], [*table[1:], table[0]])
    assert "clip.vision.feature_layer" not in read_keys(dest)


def test_shrinks_like_pillow() -> None:
    """Pillow's bicubic on one number a patch, in 32 bits, is what the table is shrunk with."""
    table = np.random.default_rng(0).standard_normal((1 + 24 * 24, 3)).astype(np.float32)
    small = resample_positions(table, 24, 16, class_token=True)
    np.testing.assert_array_equal(small[0], table[0])
    for channel in range(3):
        grid = Image.fromarray(table[1:, channel].reshape(24, 24))
        expected = np.asarray(grid.resize((16, 16), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(small[1:, channel].reshape(16, 16), expected, atol=1e-5)


# torch.nn.functional.interpolate of the squares of 0, 1, 2, ... (PyTorch 2.13):
# mode="bicubic", align_corners=False, antialias=True when shrinking, False when enlarging.
PYTORCH = {
    (4, 3): [1.5723, 5.8466, 13.4139, 40.1018, 58.1063, 79.4039, 131.3201, 163.0549, 198.0827],
    (2, 3): [-0.4039, -0.0208, 0.3622, 1.7396, 3.5, 5.2604, 3.8831, 7.0208, 10.1586],
}


@pytest.mark.parametrize("sizes", PYTORCH)
def test_resamples_like_pytorch(sizes: tuple[int, int]) -> None:
    table = (np.arange(sizes[0] ** 2, dtype=np.float32) ** 2)[:, None]
    rows = resample_positions(table, *sizes, class_token=False)
    np.testing.assert_allclose(rows[:, 0], PYTORCH[sizes], atol=1e-4)


def test_rows_are_put_right_tile_by_tile() -> None:
    # Patches 1, 2, 3 and the class token (9) of two tiles; two numbers a row.
    tiles = np.float32([[1, 1], [2, 2], [3, 3], [9, 9], [11, 11], [12, 12], [13, 13], [9, 9]])
    given = tiles.copy()
    repaired = repair_rows(tiles, 4)
    assert repaired[:, 0].tolist() == [1, 1, 2, 3, 11, 11, 12, 13]
    assert repaired.dtype == np.float32
    np.testing.assert_array_equal(tiles, given)
    for n_patches in (3, 1, 0):
        with pytest.raises(ValueError, match="no tiles"):
            repair_rows(tiles, n_patches)


def test_written_once(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)
    first = prepared(source).path
    written = first.stat()
    again = prepared(source).path
    assert (again, again.stat().st_ino) == (first, written.st_ino)
    assert first.parent == tmp_path / "cache" / "towers"
    assert first.name.endswith("-positions-layers.gguf")


def test_the_source_is_not_read_at_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)
    first = prepared(source)
    monkeypatch.setattr(cache_module, "_sha256", lambda path: pytest.fail(f"hashed {path}"))
    assert prepared(source) == first


def test_other_content_is_another_entry(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE, seed=1)
    first = prepared(source).path
    make_tower(source, SHAPE, seed=2)
    os.utime(source, ns=(1, 1))
    second = prepared(source).path
    assert second != first
    np.testing.assert_array_equal(
        read_weights(second)["mm.0.weight"], read_weights(source)["mm.0.weight"]
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-200] ^= 255
    path.write_bytes(content)


def unseal(path: Path) -> None:
    flip(path)
    path.with_suffix(".sha256").unlink()


def lose(path: Path) -> None:
    path.unlink()


def spoil_notes(path: Path) -> None:
    for note in path.parent.glob("*.digest"):
        note.write_bytes(b"\xff[1")


@pytest.mark.parametrize("damage", [cut, empty, flip, unseal, lose, spoil_notes])
def test_a_damaged_entry_is_made_again(damage: object, tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)
    path = prepared(source).path
    content = path.read_bytes()
    damage(path)  # type: ignore[operator]
    assert prepared(source).path == path
    assert path.read_bytes() == content


def test_many_servers_at_once(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(prepared(source).path)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert len(set(paths)) == 1
    assert read_keys(paths[0])["clip.vision.feature_layer"] == [2]
    assert not list(paths[0].parent.glob(".rewriting-*"))


def test_leftovers_are_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "towers"
    folder.mkdir(parents=True)
    old, new = folder / ".rewriting-old", folder / ".rewriting-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 200_000,) * 2)
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)
    prepared(source)
    assert not old.exists()
    assert new.exists()  # perhaps another server is writing it


def test_a_cache_that_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(StartupError, match=r"--cache-dir .*--llava-fix off") as caught:
        prepared(source)
    assert "\n" not in caught.value.message


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.gguf"
    make_tower(source, SHAPE)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StartupError, match=r"No space left on device.*--cache-dir"):
        prepared(source)
    assert not list((tmp_path / "cache" / "towers").glob("*.gguf"))
    assert not list((tmp_path / "cache" / "towers").glob(".rewriting-*"))
