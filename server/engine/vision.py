"""The vision tower as the engine uses it: libmtmd on a repaired file, its rows put right."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.engine.assemble import assemble, count
from server.engine.bindings.chunks import MROPE_SECTIONS, ImageSpan, Span
from server.engine.bindings.cuts import Cuts
from server.engine.bindings.model import Model
from server.engine.bindings.vision import Rows, Vision
from server.engine.picture_settings import check_picture_settings
from server.errors import StartupError
from server.messages import EngineConfig, ImageInput, PromptPart, VisionFacts
from server.towers.cache import content_digest
from server.towers.facts import TowerFacts, read_facts
from server.towers.faults import Faults
from server.towers.newline import read_newline
from server.towers.prepare import PreparedTower, prepare
from server.towers.repair import repair_rows
from server.towers.selftest import find_faults

logger = logging.getLogger(__name__)

# Edges of pictures that are counted to find the largest; web pictures are no larger in effect.
_PROBES = (64, 256, 448, 896, 1344, 2048, 4096, 8192)
_UNSERVED = {
    "deepseek4v": "how many tokens a picture has there depends on where in the prompt it stands",
}


class VisionEncoder:
    """Counts and encodes pictures; the rows it returns are those that LLaVA was trained on.

    ``newline`` is the embedding after each row of a tiled picture, float32 [n_embd]. ``whole``:
    the language model attends to a picture in both directions, so it is computed in one batch;
    ``n_sections`` is how many positions an embedding has.
    """

    def __init__(
        self, vision: Vision, tower: PreparedTower, newline: NDArray[np.float32] | None = None
    ) -> None:
        self._vision = vision
        self._tower = tower
        self._newline = newline
        self._side = math.isqrt(tower.n_patches)
        self.whole = vision.needs_whole_image
        self.n_sections = MROPE_SECTIONS if vision.uses_mrope else 1

    def close(self) -> None:
        """Frees tower and projector."""
        self._vision.close()

    @property
    def batch_tokens(self) -> int:
        """Most tokens that one run of the tower gives for several pictures; 0: one by one."""
        return self._vision.batch_tokens

    def encode_together(self, n_tokens: int) -> None:
        """Has pictures of equal size encoded together, up to so many tokens, if the tower can.

        One such run is done at once, so that its buffers are there before the first request.
        """
        edge = self._tower.image_size
        if n_tokens <= 0 or not self._vision.batches(edge, edge):
            return
        self._vision.batch_tokens = n_tokens
        blank = ImageInput("", edge, edge, bytes(edge * edge * 3), edge, edge)
        n_rows = max(1, _most_tokens(self.tokenize([blank])))
        self.encode([blank] * max(1, n_tokens // n_rows))

    def largest_picture(self) -> int:
        """Tokens of the largest picture, or of its largest tile, found by asking libmtmd."""
        sizes = [(edge, edge) for edge in _PROBES] + [(edge, edge // 2) for edge in _PROBES]
        blanks = (ImageInput("", *size, b"", *size) for size in sizes)
        return max(_most_tokens(self.tokenize([blank])) for blank in blanks)

    def tokenize(self, parts: Sequence[PromptPart]) -> list[Span]:
        """The prompt as runs of token ids and picture spans; nothing is encoded."""
        spans = self._vision.tokenize(parts)
        if not self._tower.by_squares:
            return spans
        # libmtmd knows of each picture the first square only, and calls that one row high.
        images = (part for part in parts if isinstance(part, ImageInput))
        newlines = self._newline is not None
        return [
            replace(count(next(images), self._side, newlines=newlines), picture=span.picture)
            if isinstance(span, ImageSpan)
            else span
            for span in spans
        ]

    def encode(self, images: Sequence[ImageInput]) -> list[Rows]:
        """Of each, float32 [n_tokens, n_embd], repaired where this libmtmd computes them wrongly.

        Raises:
            RuntimeError: libmtmd failed on a picture.
        """
        if not self._tower.by_squares:
            return self._vision.encode(images)
        squares = [[image, *(replace(image, rgb=tile) for tile in image.tiles)] for image in images]
        rows = iter(self._vision.encode([square for each in squares for square in each]))
        return [
            assemble([self._repaired(next(rows)) for _ in each], each[0], self._newline)
            for each in squares
        ]

    def _repaired(self, rows: Rows) -> Rows:
        return repair_rows(rows, self._tower.n_patches) if self._tower.repair else rows

    def identity(self, cache_dir: Path) -> list[object]:
        """All that decides about a picture's rows, beside libmtmd itself."""
        tower = self._tower
        newline = None if self._newline is None else self._newline.tolist()
        return [content_digest(cache_dir, tower.path), tower.repair, newline]

    def facts(self, backend: str) -> VisionFacts:
        """What was loaded, what was found wrong with it and what was undone."""
        facts, tower = self._tower.facts, self._tower
        return VisionFacts(
            projector=facts.projector_type,
            fixed=tower.by_squares,
            image_size=tower.image_size,
            native_image_size=facts.image_size,
            patch_size=facts.patch_size,
            tokens_per_image=tower.n_patches,
            image_mean=facts.image_mean,
            has_class_token=facts.has_class_token,
            faults=tower.faults,
            undone=tower.undone,
            backend=backend,
            n_params=facts.n_params,
            size=facts.n_bytes,
            pinpoints=tower.pinpoints,
            row_newlines=self._newline is not None,
            non_causal=self.whole,
            mrope=self.n_sections > 1,
            largest_picture=self.largest_picture() if self.whole else 0,
            batch_tokens=self.batch_tokens,
        )


def _most_tokens(spans: Sequence[Span]) -> int:
    return max(span.n_tokens for span in spans if isinstance(span, ImageSpan))


def load_vision(
    config: EngineConfig, model: Model, cuts: Cuts | None = None
) -> VisionEncoder | None:
    """Tests this libmtmd, repairs the mmproj where needed, and loads it, interruptible by ``cuts``.

    Raises:
        StartupError: the file does not fit the language model, or cannot be loaded.
        ConfigError: a setting of pictures does not suit the tower.
    """
    facts = read_facts(config.mmproj) if config.mmproj else None
    check_picture_settings(config, facts)
    if config.mmproj is None or facts is None:
        return None
    _check_fit(config.mmproj, facts, model)
    tower = prepare(
        config.mmproj,
        faults=_find_faults(config, model, facts),
        fix=config.llava_fix,
        image_size=config.image_size,
        cache_dir=config.cache_dir,
    )
    for reason in tower.reasons:
        logger.info("%s", reason)
    vision = Vision(
        tower.path,
        model,
        threads=config.threads,
        offload=config.mmproj_offload,
        warmup=True,
        min_tokens=config.image_min_tokens,
        max_tokens=config.image_max_tokens,
        cuts=cuts,
    )
    _check_places(vision, tower, model)
    return VisionEncoder(vision, tower, _read_newline(config.mmproj, tower))


def _check_places(vision: Vision, tower: PreparedTower, model: Model) -> None:
    if tower.by_squares and vision.uses_mrope:
        vision.close()
        raise StartupError(
            f"{tower.path.name} is a LLaVA's tower, and {model.path.name} wants the places of"
            " pictures in two dimensions (M-RoPE): they do not belong together"
        )


def _check_fit(mmproj: Path, facts: TowerFacts, model: Model) -> None:
    if facts.projector_type in _UNSERVED:
        raise StartupError(
            f"{mmproj.name}: projector {facts.projector_type!r} is not served:"
            f" {_UNSERVED[facts.projector_type]}"
        )
    if facts.n_out and facts.n_out != model.n_embd:
        raise StartupError(
            f"{mmproj.name} does not belong to {model.path.name}: it projects pictures to"
            f" {facts.n_out} dimensions, the language model has {model.n_embd}"
        )


def _read_newline(mmproj: Path, tower: PreparedTower) -> NDArray[np.float32] | None:
    if not tower.pinpoints:
        return None
    newline = read_newline(mmproj, tower.facts.n_out)
    if newline is None:
        logger.warning(
            "LLaVA-1.6: %s brings no embedding for the ends of rows (model.image_newline): tiles"
            " are given one after another, with their padding",
            mmproj.name,
        )
    return newline


def _find_faults(config: EngineConfig, model: Model, facts: TowerFacts) -> Faults:
    if not facts.is_llava:
        return Faults()

    def encode(path: Path, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        tiny = Vision(path, model, threads=1, offload=config.mmproj_offload, warmup=False)
        try:
            height, width, _ = rgb.shape
            image = ImageInput("self-test", width, height, rgb.tobytes(), width, height)
            return tiny.encode([image])[0]
        finally:
            tiny.close()

    with tempfile.TemporaryDirectory(prefix="llava-self-test-") as folder:
        return find_faults(encode, model.n_embd, Path(folder))
