"""What the engine says of a request, made of what it keeps of it."""

from __future__ import annotations

import time

from server.engine.request import ImageRun, Request
from server.messages import EncodedImage, RequestTimings


def timings(request: Request, *, ended: bool) -> RequestTimings:
    """When it reached each stage; ``ended``: its last token was sampled just now."""
    finished = time.monotonic() if ended else 0.0
    return RequestTimings(request.queued, request.started, request.first_token, finished)


def encoded_image(run: ImageRun) -> EncodedImage:
    """What became of a picture of the prompt."""
    return EncodedImage(
        tokens=run.n_tokens,
        grid_width=run.grid_width,
        grid_height=run.grid_height,
        width=run.image.width,
        height=run.image.height,
        source_width=run.image.source_width,
        source_height=run.image.source_height,
        encode_seconds=run.encode_seconds,
        # Without rows the prefix cache had all of it, and nobody needed to look.
        cached=run.cached or run.rows is None,
        encode_start=run.encode_start,
    )
