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
from server.engine.bindings.cuts import Cuts
from server.engine.bindings.model import Model
from server.engine.bindings.vision import ImageSpan, Vision
from server.engine.picture_settings import check_picture_settings
from server.errors import StartupError
from server.messages import EngineConfig, ImageInput, VisionFacts
from server.towers.facts import TowerFacts, read_facts
from server.towers.faults import Faults
from server.towers.newline import read_newline
from server.towers.prepare import PreparedTower, prepare
from server.towers.repair import repair_rows
from server.towers.selftest import find_faults

logger = logging.getLogger(__name__)


class VisionEncoder:
    """Counts and encodes pictures; the rows it returns are those that LLaVA was trained on.

    ``newline`` is the embedding after each row of a tiled picture, float32 [n_embd].
    """

    def __init__(
        self, vision: Vision, tower: PreparedTower, newline: NDArray[np.float32] | None = None
    ) -> None:
        self._vision = vision
        self._tower = tower
        self._newline = newline
        self._side = math.isqrt(tower.n_patches)

    def close(self) -> None:
        """Frees tower and projector."""
        self._vision.close()

    def tokenize(self, parts: Sequence[str | ImageInput]) -> list[list[int] | ImageSpan]:
        """The prompt as runs of token ids and picture spans; nothing is encoded."""
        spans = self._vision.tokenize(parts)
        if not self._tower.facts.is_llava:
            return spans
        # libmtmd knows of each picture the first square only, and calls that one row high.
        images = (part for part in parts if isinstance(part, ImageInput))
        newlines = self._newline is not None
        return [
            count(next(images), self._side, newlines=newlines)
            if isinstance(span, ImageSpan)
            else span
            for span in spans
        ]

    def encode(self, image: ImageInput) -> NDArray[np.float32]:
        """Float32 [n_tokens, n_embd], repaired where this libmtmd computes them wrongly."""
        if not self._tower.facts.is_llava:
            return self._vision.encode(image)
        squares = [image, *(replace(image, rgb=tile) for tile in image.tiles)]
        return assemble([self._encode_square(one) for one in squares], image, self._newline)

    def _encode_square(self, image: ImageInput) -> NDArray[np.float32]:
        rows = self._vision.encode(image)
        return repair_rows(rows, self._tower.n_patches) if self._tower.repair else rows

    def facts(self, backend: str) -> VisionFacts:
        """What was loaded, what was found wrong with it and what was undone."""
        facts, tower = self._tower.facts, self._tower
        return VisionFacts(
            projector=facts.projector_type,
            fixed=facts.is_llava,
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
        )


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
    _check_width(config.mmproj, facts, model)
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
    _check_served(config.mmproj, vision, facts)
    return VisionEncoder(vision, tower, _read_newline(config.mmproj, tower))


def _check_served(mmproj: Path, vision: Vision, facts: TowerFacts) -> None:
    if vision.needs_whole_image or vision.uses_mrope:
        vision.close()
        raise StartupError(
            f"{mmproj.name}: models with projector {facts.projector_type!r} are not served"
            " yet; this version serves LLaVA and other models with causal image attention"
        )


def _check_width(mmproj: Path, facts: TowerFacts, model: Model) -> None:
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
            return tiny.encode(image)
        finally:
            tiny.close()

    with tempfile.TemporaryDirectory(prefix="llava-self-test-") as folder:
        return find_faults(encode, model.n_embd, Path(folder))
