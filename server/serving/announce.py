"""What the log says once the model is loaded."""

from __future__ import annotations

import logging

from server.messages import EngineReady, VisionFacts

logger = logging.getLogger(__name__)


def announce(ready: EngineReady, url: str) -> None:
    """Model, vision tower, and where to find us."""
    model, vision = ready.model, ready.vision
    logger.info(
        "%s: %s, %d cells for %d sequences, loaded in %.1f s",
        *(model.name, model.description, model.n_ctx, ready.parallel, ready.load_seconds),
    )
    if vision is None:
        logger.info("no mmproj: text only")
    else:
        _announce_tower(vision)
    logger.info("serving on %s", url)


def _announce_tower(vision: VisionFacts) -> None:
    shapes = ", ".join(f"{width}x{height}" for width, height in vision.pinpoints)
    logger.info(
        "vision tower: %dx%d pixels, patch %d, %d tokens a %s, on %s%s",
        *(vision.image_size, vision.image_size, vision.patch_size),
        *(vision.tokens_per_image, "square" if vision.tiled else "picture", vision.backend),
        f"; an overview and tiles of {shapes}" if shapes else "",
    )
    if vision.non_causal:
        logger.info(
            "pictures are attended to in both directions: each is computed in one batch, of up to"
            " %d tokens, which the latency bound cannot divide",
            vision.largest_picture,
        )
    if vision.batch_tokens:
        logger.info("pictures are encoded together, up to %d tokens", vision.batch_tokens)
