"""Preparing a tower: decide what to change, change it in the cache, say what was done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from server.errors import ConfigError
from server.mmproj.cache import TowerCache, towers_dir
from server.mmproj.facts import TowerFacts, read_facts
from server.mmproj.faults import Faults, TowerFaults
from server.mmproj.rewrite import RewritePlan, rewrite

# Beyond this the position table says nothing any more, and tokens grow with the square.
_MAX_GROWTH: Final = 4


@dataclass(slots=True, frozen=True)
class PreparedTower:
    """A tower that can be loaded from ``path``.

    ``facts`` are those of the file it was made from, ``image_size`` (pixels) is what it takes
    now, ``n_patches`` the rows that each square gives. If ``repair``, they need ``repair_rows``.
    ``by_squares``: libmtmd is given single squares, cut by us; otherwise pictures of any size.
    ``pinpoints``, (width, height) in pixels, are multiples of ``image_size`` to cut pictures to.
    ``faults`` were found for this kind of tower, ``undone`` are those put right, ``reasons`` say
    it all in words, a sentence each.
    """

    path: Path
    facts: TowerFacts
    image_size: int
    n_patches: int
    pinpoints: tuple[tuple[int, int], ...]
    by_squares: bool
    repair: bool
    faults: tuple[str, ...]
    undone: tuple[str, ...]
    reasons: tuple[str, ...]


def prepare(
    mmproj: Path, *, faults: Faults, fix: bool, image_size: int | None, cache_dir: Path
) -> PreparedTower:
    """Makes the file that libmtmd has to load so that it computes what was trained.

    Nothing is written if there is nothing to change. ``faults`` are the self-test's; ``fix`` False
    leaves them; ``image_size`` in pixels None leaves the resolution.

    Raises:
        ConfigError: ``image_size`` does not suit the tower; the text names the sizes that do.
        StartupError: the file is no usable mmproj, or the cache cannot be written.
    """
    facts = read_facts(mmproj)
    size = facts.image_size if image_size is None else image_size
    if size != facts.image_size:
        _check_size(facts, size, fix=fix)
    found, reasons = _relevant(facts, faults)
    undo = _curable(facts, found) if fix else TowerFaults()
    plan = RewritePlan(
        rotate_positions=undo.class_position,
        run_all_layers=undo.skipped_layer,
        image_size=size if size != facts.image_size else None,
        # Without the fix libmtmd cuts and orders the tiles, as every server on top of it has them.
        drop_pinpoints=facts.tiled and fix,
    )
    path = _rewritten(mmproj, plan, cache_dir) if plan.tag else mmproj
    return PreparedTower(
        path=path,
        facts=facts,
        image_size=size,
        n_patches=facts.n_tokens(size),
        pinpoints=_scaled_pinpoints(facts, size) if fix else (),
        by_squares=facts.is_llava and (fix or not facts.tiled),
        repair=undo.dropped_patch,
        faults=found.names(),
        undone=undo.names(),
        reasons=(*reasons, *_words(facts, found, undo, fix=fix), *_places(facts, plan, path)),
    )


def _rewritten(mmproj: Path, plan: RewritePlan, cache_dir: Path) -> Path:
    cache = TowerCache(towers_dir(cache_dir))
    return cache.get(mmproj, plan.tag, partial(_make, mmproj, plan))


def _make(mmproj: Path, plan: RewritePlan, dest: Path) -> None:
    rewrite(mmproj, dest, plan)


def _scaled_pinpoints(facts: TowerFacts, size: int) -> tuple[tuple[int, int], ...]:
    """The shapes that pictures are cut to, with the same tiles at another size of them."""
    if not facts.tiled:
        return ()

    def scaled(edge: int) -> int:
        return max(1, round(edge / facts.image_size)) * size

    return tuple((scaled(width), scaled(height)) for width, height in facts.pinpoints)


def _relevant(facts: TowerFacts, faults: Faults) -> tuple[TowerFaults, list[str]]:
    """Those of libmtmd's faults that this very file meets, and why the others do not count."""
    if not facts.is_llava:
        return TowerFaults(), []
    of_kind = faults.of(facts.has_class_token)
    skipped, reasons = of_kind.skipped_layer, []
    if skipped and facts.feature_layers:
        skipped = False
        layers = ", ".join(map(str, facts.feature_layers))
        reasons.append(f"the mmproj itself names the layers to take features from ({layers})")
    elif skipped and facts.stores_all_layers:
        skipped = False
        reasons.append(
            f"the mmproj holds all {facts.n_layer} layers of its tower, so llama.cpp is right to"
            " leave the last one out"
        )
    if facts.has_post_norm:
        reasons.append(
            "the mmproj holds a norm after the tower (v.post_ln), which llama.cpp applies;"
            " published LLaVA files have none, so this one is left as it is"
        )
    found = TowerFaults(of_kind.class_position, of_kind.dropped_patch, skipped, of_kind.unknown)
    return found, reasons


def _curable(facts: TowerFacts, found: TowerFaults) -> TowerFaults:
    # MobileVLM's projectors mix the rows on the grid inside the graph: a lost one stays lost.
    dropped = found.dropped_patch and not facts.pools
    return TowerFaults(found.class_position, dropped, found.skipped_layer)


def _words(facts: TowerFacts, found: TowerFaults, undone: TowerFaults, *, fix: bool) -> list[str]:
    if found.unknown:
        return ["LLaVA: this llama.cpp computes something unknown here; nothing was undone"]
    if not found.names():
        return ["LLaVA: this llama.cpp computes the tower as it was trained"] * facts.is_llava
    names = ", ".join(found.names())
    if not fix:
        return [f"LLaVA: llama.cpp's faults are left as they are (--llava-fix off): {names}"]
    left = [name for name in found.names() if name not in undone.names()]
    words = []
    if undone.names():
        words.append(f"LLaVA: llama.cpp's faults undone: {', '.join(undone.names())}")
    if left:
        words.append(f"LLaVA: cannot be undone for projector {facts.projector_type!r}: {left[0]}")
    return words


def _places(facts: TowerFacts, plan: RewritePlan, path: Path) -> list[str]:
    reasons = []
    if plan.image_size is not None:
        reasons.append(
            f"vision tower at {plan.image_size} px instead of {facts.image_size} px:"
            f" {facts.n_tokens(plan.image_size)} tokens a square, not"
            f" {facts.n_tokens(facts.image_size)}"
        )
    if plan.tag:
        reasons.append(f"prepared vision tower: {path}")
    return reasons


def _check_size(facts: TowerFacts, size: int, *, fix: bool) -> None:
    if facts.tiled and not fix:
        raise ConfigError(
            "--image-size: with --llava-fix off llama.cpp cuts the tiles of a LLaVA-1.6, in their"
            " own size; leave one of the two out"
        )
    if not facts.is_llava:
        raise ConfigError(
            f"--image-size: a tower with projector {facts.projector_type!r} takes pictures in sizes"
            " of its own; leave it out (--image-max-edge limits what is sent to it)"
        )
    if facts.pools:
        raise ConfigError(
            f"--image-size: llama.cpp computes projector {facts.projector_type!r} at"
            f" {facts.image_size} px only; leave it out"
        )
    patch = facts.patch_size
    # Two patches a side at least: of a single one, nothing would be left to stand in for it.
    low, high = 2 * patch, _MAX_GROWTH * facts.image_size // patch * patch
    if size % patch or not low <= size <= high:
        below = min(max(size // patch * patch, low), high)
        above = min(max(-(-size // patch) * patch, low), high)
        nearest = f"{below} or {above}" if below != above else str(below)
        raise ConfigError(
            f"--image-size {size}: this tower takes multiples of {patch} from {low} to {high}"
            f" (its own is {facts.image_size}); the nearest is {nearest}"
        )
