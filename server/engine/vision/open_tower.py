"""Opening a vision tower: tested, repaired where needed, and held against its language model."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.ggml import Cuts
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.engine.llama.mtmd import Vision
from server.engine.vision.mtmd_tower import MtmdTower
from server.engine.vision.tower import Tower
from server.errors import ConfigError, StartupError
from server.messages import EngineConfig, ImageInput
from server.mmproj.checks import check_pair, check_picture_settings
from server.mmproj.facts import TowerFacts, read_facts, read_newline
from server.mmproj.faults import Faults
from server.mmproj.prepare import PreparedTower, prepare
from server.mmproj.self_test import find_faults
from server.projectors import picture_grid

logger = logging.getLogger(__name__)


def open_tower(
    config: EngineConfig,
    model: Model,
    cuts: Cuts | None = None,
    *,
    offload: bool = False,
    device: int | None = None,
    log: LlamaLog | None = None,
) -> Tower | None:
    """Opens what ``--mmproj`` names, interruptible by ``cuts``; None where it names nothing.

    Here the class of tower is chosen: a GGUF is libmtmd's, which is tested first, and the file
    repaired where needed. With ``offload`` the tower runs on the GPU ``device``, or on the one
    that libmtmd chooses. ``log`` has the lines of loading it.

    Raises:
        StartupError: the file does not fit the language model, or cannot be loaded.
        ConfigError: a setting of pictures does not suit the tower.
    """
    mmproj = config.mmproj
    facts = read_facts(mmproj) if mmproj else None
    check_picture_settings(config, facts)
    if mmproj is None or facts is None:
        return None
    check_pair(mmproj.name, facts, model.path.name, model.n_embd)
    prepared = _prepare(config, mmproj, _find_faults(model, facts, offload=offload))
    device = device if offload else None
    try:
        vision = _load(config, prepared.path, model, cuts=cuts, device=device, offload=offload)
    except StartupError as error:
        raise _explained(error, config, prepared.path, log.lines if log else []) from None
    lines = _of_last_tower(log.take()) if log else []
    return _mtmd_tower(config, mmproj, prepared, vision, model=model, lines=lines)


def _prepare(config: EngineConfig, mmproj: Path, faults: Faults) -> PreparedTower:
    prepared = prepare(
        mmproj,
        faults=faults,
        fix=config.llava_fix,
        image_size=config.image_size,
        cache_dir=config.cache_dir,
    )
    for reason in prepared.reasons:
        logger.info("%s", reason)
    return prepared


def _mtmd_tower(
    config: EngineConfig,
    mmproj: Path,
    prepared: PreparedTower,
    vision: Vision,
    *,
    model: Model,
    lines: list[str],
) -> MtmdTower:
    facts = prepared.facts
    try:
        _check_places(vision, mmproj, prepared, model)
        _check_words(vision, mmproj, prepared, model)
        rows, columns = picture_grid(facts.projector_type, config.image_max_tokens)
        most_tokens = rows * columns if facts.any_size else 0
        newline = _read_newline(mmproj, prepared)
        return MtmdTower(vision, prepared, newline, most_tokens, lines)
    except StartupError:
        vision.close()
        raise


def _of_last_tower(lines: list[str]) -> list[str]:
    """The lines about the real tower: the self-test's towers were loaded before it."""
    starts = [number for number, line in enumerate(lines) if "CLIP using" in line]
    return lines[starts[-1] :] if starts else []


def _load(
    config: EngineConfig,
    path: Path,
    model: Model,
    *,
    cuts: Cuts | None,
    device: int | None,
    offload: bool,
) -> Vision:
    return Vision(
        path,
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


# clip_model_loader::load_hparams (tools/mtmd/clip.cpp)
_BOUNDS = re.compile(r"image_max_pixels \((-?\d+)\) is less than image_min_pixels \((\d+)\)")


def _explained(
    error: StartupError, config: EngineConfig, path: Path, lines: Iterable[str]
) -> StartupError:
    """The failure in terms of what the operator gave: bounds, and not a prepared file."""
    low, high = config.image_min_tokens, config.image_max_tokens
    for most, least in (map(int, found) for line in lines for found in _BOUNDS.findall(line)):
        if high is not None:
            tokens = least * high // most
            return ConfigError(
                f"--image-max-tokens {high}: this tower makes at least {tokens} tokens of a"
                " picture; use more, or lower that with --image-min-tokens"
            )
        if low is not None and most <= 0:
            return ConfigError(
                f"--image-min-tokens {low}: this tower has no upper bound of its own; give"
                " --image-max-tokens, too"
            )
        if low is not None:
            return ConfigError(
                f"--image-min-tokens {low}: this tower makes at most {most * low // least} tokens"
                " of a picture; use fewer, or raise that with --image-max-tokens"
            )
    return StartupError(error.message.replace(str(path), str(config.mmproj)))


def _check_places(vision: Vision, mmproj: Path, tower: PreparedTower, model: Model) -> None:
    if tower.by_squares and vision.uses_mrope:
        raise StartupError(
            f"{mmproj.name} is a LLaVA's tower, and {model.path.name} wants the places of"
            " pictures in two dimensions (M-RoPE): they do not belong together"
        )


def _check_words(vision: Vision, mmproj: Path, tower: PreparedTower, model: Model) -> None:
    """libmtmd puts words around pictures; those that the model lacks would end llama_decode."""
    edge = 2 * tower.image_size  # large enough to be cut into tiles
    spans = vision.tokenize([ImageInput("", edge, edge, b"", edge, edge)])
    if any(token < 0 for span in spans if isinstance(span, list) for token in span):
        raise StartupError(
            f"{mmproj.name} does not belong to {model.path.name}: the language model lacks"
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
