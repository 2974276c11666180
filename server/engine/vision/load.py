"""Loading a vision tower: tested, repaired where needed, and held against its language model."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.cuts import Cuts
from server.engine.llama.model import Model
from server.engine.llama.mtmd import Vision
from server.engine.vision.encoder import VisionEncoder
from server.errors import StartupError
from server.messages import EngineConfig, ImageInput
from server.mmproj.checks import check_pair, check_picture_settings
from server.mmproj.facts import TowerFacts, read_facts, read_newline
from server.mmproj.faults import Faults
from server.mmproj.prepare import PreparedTower, prepare
from server.mmproj.projectors import picture_grid
from server.mmproj.self_test import find_faults

logger = logging.getLogger(__name__)


def load_vision(
    config: EngineConfig,
    model: Model,
    cuts: Cuts | None = None,
    *,
    offload: bool = False,
    device: int | None = None,
) -> VisionEncoder | None:
    """Tests this libmtmd, repairs the mmproj where needed, and loads it, interruptible by ``cuts``.

    With ``offload`` the tower runs on the GPU ``device``, or on the one that libmtmd chooses.

    Raises:
        StartupError: the file does not fit the language model, or cannot be loaded.
        ConfigError: a setting of pictures does not suit the tower.
    """
    facts = read_facts(config.mmproj) if config.mmproj else None
    check_picture_settings(config, facts)
    if config.mmproj is None or facts is None:
        return None
    check_pair(config.mmproj.name, facts, model.path.name, model.n_embd)
    tower = prepare(
        config.mmproj,
        faults=_find_faults(model, facts, offload=offload),
        fix=config.llava_fix,
        image_size=config.image_size,
        cache_dir=config.cache_dir,
    )
    for reason in tower.reasons:
        logger.info("%s", reason)
    vision = _open(config, tower, model, cuts, device if offload else None, offload=offload)
    _check_places(vision, tower, model)
    _check_words(vision, tower, model)
    rows, columns = picture_grid(facts.projector_type, config.image_max_tokens)
    most_tokens = rows * columns if facts.any_size else 0
    return VisionEncoder(vision, tower, _read_newline(config.mmproj, tower), most_tokens)


def _open(
    config: EngineConfig,
    tower: PreparedTower,
    model: Model,
    cuts: Cuts | None,
    device: int | None,
    *,
    offload: bool,
) -> Vision:
    return Vision(
        tower.path,
        model,
        threads=config.threads,
        offload=offload,
        device=device,
        flash_attn=config.memory.flash_attn,
        warmup=True,
        min_tokens=config.image_min_tokens,
        max_tokens=config.image_max_tokens,
        cuts=cuts,
    )


def _check_places(vision: Vision, tower: PreparedTower, model: Model) -> None:
    if tower.by_squares and vision.uses_mrope:
        vision.close()
        raise StartupError(
            f"{tower.path.name} is a LLaVA's tower, and {model.path.name} wants the places of"
            " pictures in two dimensions (M-RoPE): they do not belong together"
        )


def _check_words(vision: Vision, tower: PreparedTower, model: Model) -> None:
    """libmtmd puts words around pictures; those that the model lacks would end llama_decode."""
    edge = 2 * tower.image_size  # large enough to be cut into tiles
    spans = vision.tokenize([ImageInput("", edge, edge, b"", edge, edge)])
    if any(token < 0 for span in spans if isinstance(span, list) for token in span):
        vision.close()
        raise StartupError(
            f"{tower.path.name} does not belong to {model.path.name}: the language model lacks"
            f" words that projector {tower.facts.projector_type!r} puts around pictures"
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


def _find_faults(model: Model, facts: TowerFacts, *, offload: bool) -> Faults:
    if not facts.is_llava:
        return Faults()

    def encode(path: Path, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        tiny = Vision(path, model, threads=1, offload=offload, warmup=False)
        try:
            height, width, _ = rgb.shape
            image = ImageInput("self-test", width, height, rgb.tobytes(), width, height)
            return tiny.encode([image])[0]
        finally:
            tiny.close()

    with tempfile.TemporaryDirectory(prefix="llava-self-test-") as folder:
        return find_faults(encode, model.n_embd, Path(folder))
