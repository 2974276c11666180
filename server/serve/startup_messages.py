"""What the log says once the model is loaded."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from server.messages import EngineProgress, EngineReady, VisionFacts

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


_INTERVAL = 0.1


class Loading(Protocol):
    """Whatever loads."""

    @property
    def progress(self) -> EngineProgress | None:
        """How far it is."""


async def show(loading: Loading) -> None:
    """Draws until it is cancelled. Where nobody looks, in a service's log, there is no bar."""
    if not sys.stderr.isatty():
        return
    # The log goes on above the bar.
    bar = tqdm(total=1, unit="B", unit_scale=True, unit_divisor=1024, leave=False, delay=0.5)
    with logging_redirect_tqdm([logging.getLogger("server")]), bar:
        while True:
            progress = loading.progress
            if progress is not None:
                bar.total = max(1, progress.total_bytes)
                bar.set_description(f"loading {progress.stage}", refresh=False)
                bar.n = progress.loaded_bytes
                bar.refresh()
            await asyncio.sleep(_INTERVAL)
