"""What the engine says of a request, made of what it keeps of it."""

from __future__ import annotations

import time

from server.engine.request import Picture, Request
from server.messages import EncodedImage, RequestTimings


def timings(request: Request, *, ended: bool) -> RequestTimings:
    """When it reached each stage; ``ended``: its last token was sampled just now."""
    finished = time.monotonic() if ended else 0.0
    return RequestTimings(request.queued, request.started, request.first_token, finished)


def encoded_image(picture: Picture) -> EncodedImage:
    """What became of a picture of the prompt."""
    return EncodedImage(
        tokens=picture.n_tokens,
        grid_width=picture.grid_width,
        grid_height=picture.grid_height,
        width=picture.image.width,
        height=picture.image.height,
        source_width=picture.image.source_width,
        source_height=picture.image.source_height,
        encode_seconds=picture.encode_seconds,
        # Without rows the prefix cache had all of it, and nobody needed to look.
        cached=picture.cached or picture.rows is None,
        encode_start=picture.encode_start,
    )
