"""The self-test against the real libmtmd, and against libmtmds that do not exist yet."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mtmd import N_OUT, Mtmd, open_mtmd
from numpy.typing import NDArray
from tower_files import FakeMtmd, picture

from server.mmproj.faults import Faults, TowerFaults
from server.mmproj.reference import project, random_weights
from server.mmproj.self_test import distance, find_faults, tiny_shape

ALL = [TowerFaults(*switches) for switches in itertools.product((False, True), repeat=3)]
LAYERS = [TowerFaults(), TowerFaults(skipped_layer=True)]


@pytest.fixture(scope="module")
def mtmd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mtmd]:
    with open_mtmd(tmp_path_factory.mktemp("mtmd")) as opened:
        yield opened


def test_the_pinned_libmtmd_has_all_three_faults(
    mtmd: Mtmd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.perf_counter()
    faults = find_faults(mtmd.encode, N_OUT, tmp_path)
    assert time.perf_counter() - start < 2  # 0.07 s on two idle cores
    assert faults.with_class == TowerFaults(True, True, True)
    assert faults.without_class == TowerFaults(skipped_layer=True)
    assert faults.names() == ("class_position", "dropped_patch", "skipped_layer")
    assert not caplog.records


@pytest.mark.parametrize("faults", ALL)
def test_names_each_combination(
    faults: TowerFaults, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = TowerFaults(skipped_layer=faults.skipped_layer)
    found = find_faults(FakeMtmd(faults, plain).encode, 8, tmp_path)
    assert found == Faults(faults, plain)
    assert not caplog.records


def test_a_mended_libmtmd_has_none(tmp_path: Path) -> None:
    found = find_faults(FakeMtmd(TowerFaults(), TowerFaults()).encode, 8, tmp_path)
    assert found == Faults()
    assert found.names() == ()


def rows_of_noise(_mmproj: Path, _rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((9, 8), np.float32)


def rows_of_nan(_mmproj: Path, _rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.full((9, 8), np.nan, np.float32)


def other_rows(_mmproj: Path, _rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.zeros((10, 8), np.float32)


def no_rows(_mmproj: Path, _rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    raise RuntimeError("libmtmd failed on the picture")


@pytest.mark.parametrize("encode", [rows_of_noise, rows_of_nan, other_rows, no_rows])
def test_what_it_does_not_know_is_unknown(
    encode: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = TowerFaults(unknown=True)
    assert find_faults(encode, 8, tmp_path) == Faults(unknown, unknown)  # type: ignore[arg-type]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "self-test of libmtmd" in caplog.text


def test_a_cure_that_does_not_help_is_not_used(tmp_path: Path) -> None:
    """A libmtmd that skips a layer and takes no word about it."""
    fake = FakeMtmd(ALL[1], ALL[1], obeys_feature_layer=False)
    assert ALL[1].skipped_layer
    assert find_faults(fake.encode, 8, tmp_path).names() == ("unknown",)


@pytest.mark.parametrize(("class_token", "guesses"), [(True, ALL), (False, LAYERS)])
def test_no_two_combinations_look_alike(class_token: bool, guesses: list[TowerFaults]) -> None:
    """The self-test's threshold is 0.05: what it tells apart must lie far beyond."""
    shape = tiny_shape(64, class_token=class_token)
    weights = random_weights(shape, 20251121)
    rows = [project(weights, shape, picture(42), faults) for faults in guesses]
    assert min(distance(a, b) for a, b in itertools.permutations(rows, 2)) > 0.3


def test_the_width_is_the_language_models(mtmd: Mtmd, tmp_path: Path) -> None:
    """libmtmd refuses a tower of another width, so the self-test says it does not know."""
    assert find_faults(mtmd.encode, N_OUT + 32, tmp_path).names() == ("unknown",)
