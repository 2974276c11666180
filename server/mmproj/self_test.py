"""Finding out what the loaded libmtmd does with LLaVA, before a model is trusted to it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.mmproj.faults import Faults, TowerFaults, repair_rows
from server.mmproj.layout import TowerShape
from server.mmproj.reference import project, random_weights, write_tower
from server.mmproj.rewrite import RewritePlan, rewrite

__all__ = ["Encode", "Faults", "TowerFaults", "find_faults"]

logger = logging.getLogger(__name__)

# Loads the mmproj, encodes uint8 [height, width, 3], returns float32 [n_rows, n_out].
Encode = Callable[[Path, NDArray[np.uint8]], NDArray[np.float32]]

_SEED: Final = 20251121
# Relative distance to the reference: a backend in half precision stays below 0.01, and the
# nearest wrong computation of this tower is above 0.3 (measured, see tests/test_towers_selftest).
_SAME: Final = 0.05


def find_faults(encode: Encode, n_out: int, work_dir: Path) -> Faults:
    """Runs two tiny random towers through libmtmd and names what is wrong with the results.

    ``n_out`` is the width of the loaded language model, which libmtmd demands of every mmproj;
    the towers are written into ``work_dir``. Faults that were found are also undone, to see
    that it helps. What cannot be explained, errors of ``encode`` among it, is logged as a
    warning and comes back as ``unknown``, with nothing to undo.
    """
    return Faults(
        _find(encode, tiny_shape(n_out, class_token=True), work_dir),
        _find(encode, tiny_shape(n_out, class_token=False), work_dir),
    )


def tiny_shape(n_out: int, *, class_token: bool) -> TowerShape:
    """The shape of the self-test's towers: nine patches."""
    return TowerShape(
        image_size=42,
        patch_size=14,
        width=32,
        heads=2,
        feed_forward=64,
        layers=3,
        hidden=32,
        n_out=n_out,
        class_token=class_token,
    )


def _find(encode: Encode, shape: TowerShape, work_dir: Path) -> TowerFaults:
    kind = "with" if shape.class_token else "without"
    weights = random_weights(shape, _SEED)
    edge = shape.image_size
    rgb = np.random.default_rng(_SEED).integers(0, 256, (edge, edge, 3), np.uint8)
    path = work_dir / f"tower-{kind}-class-token.gguf"
    write_tower(path, shape, weights)
    try:
        rows = encode(path, rgb)
        found = _explain(rows, [(f, project(weights, shape, rgb, f)) for f in _guesses(shape)])
        if found is not None and found.names():
            cured = _undo(encode, path, rgb, found)
            # The first patch is a stand-in, so it is left out.
            if distance(cured[1:], project(weights, shape, rgb)[1:]) > _SAME:
                found = None
    except Exception as error:  # whatever a changed libmtmd does, the server can go on
        logger.warning("self-test of libmtmd, tower %s class token: %s", kind, error)
        return TowerFaults(unknown=True)
    if found is None:
        logger.warning(
            "self-test of libmtmd, tower %s class token: the result is neither right nor wrong in"
            " a known way; nothing is undone, so LLaVA may see badly with this llama.cpp",
            kind,
        )
        return TowerFaults(unknown=True)
    return found


def _guesses(shape: TowerShape) -> list[TowerFaults]:
    """Every combination of faults that such a tower can show, none at all first."""
    both = (False, True)
    if not shape.class_token:
        return [TowerFaults(skipped_layer=skipped) for skipped in both]
    return [TowerFaults(*switches) for switches in itertools.product(both, both, both)]


def _explain(
    rows: NDArray[np.float32], guesses: list[tuple[TowerFaults, NDArray[np.float32]]]
) -> TowerFaults | None:
    for faults, expected in guesses:
        if rows.shape == expected.shape and distance(rows, expected) <= _SAME:
            return faults
    return None


def distance(rows: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The norm of the difference relative to the expected; infinite where rows are no numbers."""
    if not np.isfinite(rows).all():
        return float("inf")
    return float(np.linalg.norm(rows - expected) / np.linalg.norm(expected))


def _undo(
    encode: Encode, path: Path, rgb: NDArray[np.uint8], faults: TowerFaults
) -> NDArray[np.float32]:
    plan = RewritePlan(faults.class_position, faults.skipped_layer)
    if plan.tag:
        cured = path.with_suffix(".cured.gguf")
        rewrite(path, cured, plan)
        path = cured
    rows = encode(path, rgb)
    return repair_rows(rows, len(rows)) if faults.dropped_patch else rows
