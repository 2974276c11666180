"""Batches as large as pictures want them."""

from __future__ import annotations

import logging
from dataclasses import replace

from server.engine.vision import VisionEncoder
from server.messages import EngineConfig

logger = logging.getLogger(__name__)

# llama.cpp's own default of --mtmd-batch-max-tokens.
_BATCH_TOKENS = 1024


def for_pictures(config: EngineConfig, encoder: VisionEncoder | None, backend: str) -> EngineConfig:
    """Settings with which every picture can be computed; the encoder is told what it may batch.

    ``backend`` is what the tower runs on. A picture that the language model attends to in both
    directions has to be in one batch, and in one micro-batch: where they are too small, they are
    raised, and the log says so.
    """
    if encoder is None:
        return config
    wanted = config.mtmd_batch_max_tokens
    # On a CPU several at once are no faster than one after the other, and all wait for all.
    default = 0 if backend == "CPU" else _BATCH_TOKENS
    encoder.encode_together(default if wanted is None else wanted)
    if not encoder.whole:
        return config
    largest = encoder.largest_picture()
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
