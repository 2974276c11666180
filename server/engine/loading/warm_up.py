"""Before ready: what must have been computed once, so that no request finds too little memory.

On a GPU that is one full batch and the largest picture: libraries such as cuBLAS take memory when
they first compute. On a CPU nothing does. llama.cpp and libmtmd reserve their buffers for the
largest batch before they compute, so a few tokens are enough there, and the largest picture is
stopped once its buffers are there: a full batch of a 7B takes a CPU half a minute.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from server.engine.llama.context import Batch, Context
from server.engine.llama.ggml import Cuts
from server.engine.llama.model import Model
from server.engine.vision.tower import Tower
from server.errors import StartupError
from server.memory.fit.planner import batch_tokens
from server.messages import EngineConfig, ImageInput, TileLayout, VisionFacts
from server.projectors import picture_grid

_GREY = 0x7F
# Enough to tell prefill's speed from a decode's; the first real chunks correct it.
_CPU_TOKENS = 8


def warm_up(context: Context, model: Model, n_batch: int, *, on_gpu: bool) -> float:
    """A full batch on a GPU, a few tokens on a CPU; returns its speed, in positions per second.

    Raises:
        StartupError: the context cannot hold the batch.
    """
    token = max(model.tokenize("a", add_special=False))
    if on_gpu:
        return _speed(context, token, min(n_batch, context.n_ctx))
    _speed(context, token, 1)  # reads the weights from the disk
    return _speed(context, token, min(_CPU_TOKENS, n_batch, context.n_ctx))


def _speed(context: Context, token: int, count: int) -> float:
    batch = Batch(count)
    batch.add(np.full(count, token, np.int32), 0, 0, want_last=True)
    start = time.perf_counter()
    if not context.decode(batch):
        raise StartupError("the context is too small for one batch (try a larger --ctx-size)")
    seconds = time.perf_counter() - start
    context.clear()
    return count / seconds


def sample_tokens(model: Model) -> NDArray[np.int32]:
    """Eight tokens of text."""
    tokens = model.tokenize("abcdefgh " * 8, add_special=False)
    return np.array(tokens[:8], np.int32)


def warm_up_tower(
    tower: Tower, picture: ImageInput, context: Context, config: EngineConfig, cuts: Cuts | None
) -> None:
    """Encodes the largest picture that this server lets in, and computes a batch of it.

    With ``cuts``, on a CPU, the encode ends at its first cut.

    Raises:
        StartupError: the tower cannot encode it.
    """
    try:
        if cuts is not None:
            _reserve(tower, picture, cuts)
            return
        (rows,) = tower.encode([picture])
    except (RuntimeError, ValueError) as error:
        raise StartupError(f"the vision tower cannot encode the largest picture: {error}") from None
    # llama_decode aborts where more than a micro-batch is to be attended to at once.
    limit = config.ubatch_size if tower.whole else config.batch_size
    rows = rows[: min(limit, context.n_ctx)]
    batch = Batch(len(rows), rows.shape[1], tower.n_sections)
    batch.add(rows, 0, 0, want_last=True)
    context.attend_causally(not tower.whole)
    try:
        context.decode(batch)
    finally:
        context.attend_causally(True)
    context.clear()


def _reserve(tower: Tower, picture: ImageInput, cuts: Cuts) -> None:
    """Has libmtmd take the memory that a picture needs: it does before it computes anything."""
    try:
        cuts.run(lambda: tower.encode([picture]), lambda: False)
    except RuntimeError:
        if not cuts.ended:
            raise


def largest_picture(config: EngineConfig, tower: VisionFacts) -> ImageInput:
    """A grey picture of the most pixels, or tiles, that the settings let through to the tower."""
    if not tower.fixed:
        edge = min(config.image_max_edge or config.image_max_side, config.image_max_side)
        pixels = min(config.image_max_pixels, tower.most_pixels or config.image_max_pixels)
        rows, columns = picture_grid(tower.projector, config.image_max_tokens)
        width, height = math.isqrt(pixels * columns // rows), math.isqrt(pixels * rows // columns)
        if width > edge:
            width = height = max(min(edge, math.isqrt(pixels)), tower.patch_size)
        return _picture(width, height)
    if not tower.tiled:
        return _picture(tower.image_size, tower.image_size)
    size = tower.image_size
    width, height = max(tower.pinpoints, key=lambda shape: shape[0] * shape[1])
    columns, rows = width // size, height // size
    side = math.isqrt(tower.tokens_per_image)
    layout = TileLayout(columns, rows, 0, 0, columns * side, rows * side)
    return _picture(size, size, tiles=columns * rows, layout=layout)


def _picture(
    width: int, height: int, tiles: int = 0, layout: TileLayout | None = None
) -> ImageInput:
    rgb = bytes([_GREY]) * (width * height * 3)
    size = width, height
    return ImageInput("warm-up", *size, rgb, *size, tiles=(rgb,) * tiles, layout=layout)


logger = logging.getLogger(__name__)


def for_pictures(config: EngineConfig, tower: Tower | None) -> EngineConfig:
    """Settings with which every picture can be computed; tells the tower how much to batch.

    A picture that the language model attends to in both directions has to be in one batch, and in
    one micro-batch: where they are too small, they are raised, and the log says so.
    """
    if tower is None:
        return config
    on_gpu = tower.backend != "CPU"
    tower.encode_together(batch_tokens(config.mtmd_batch_max_tokens, on_gpu=on_gpu))
    if not tower.whole:
        return config
    largest = tower.largest_picture()
    ubatch = max(config.ubatch_size, largest)
    batch = max(config.batch_size, ubatch)
    if (batch, ubatch) != (config.batch_size, config.ubatch_size):
        logger.info(
            "pictures of up to %d tokens are attended to in both directions and computed at once:"
            " --batch-size raised from %d to %d, --ubatch-size from %d to %d"
            " (--image-max-tokens makes pictures smaller where the tower allows it)",
            *(largest, config.batch_size, batch, config.ubatch_size, ubatch),
        )
    return replace(config, batch_size=batch, ubatch_size=ubatch)
