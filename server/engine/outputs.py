"""What the engine says of a request, made of what it keeps of it."""

from __future__ import annotations

import time

from server.engine.request import Picture, Request
from server.engine.writer import Writer
from server.messages import EncodedImage, FinishReason, RequestTimings, TokenOutput


def token_output(
    request: Request, writer: Writer, text: str, reason: FinishReason | None
) -> TokenOutput:
    """What is told of the token just sampled; ``reason``: with it the request ends."""
    count, now = len(request.output_tokens), time.monotonic()
    gap = now - request.last_token if request.last_token else 0.0
    request.last_token = now
    token = request.output_tokens[-1]
    output = TokenOutput(request.request_id, text, count, reason, token=token, gap=gap)
    if request.sampling.logprobs is not None:
        output = output._replace(logprobs=writer.logprobs(ended=reason is not None))
    if count == 1:
        request.first_token = now
        images = tuple(map(encoded_image, request.pictures))
        output = output._replace(images=images, cached_tokens=request.num_cached)
    if reason is not None:
        output = output._replace(stop=writer.stop)
    if count == 1 or reason is not None:
        output = output._replace(timings=timings(request, ended=reason is not None))
    return output


def timings(request: Request, *, ended: bool) -> RequestTimings:
    """When it reached each stage; ``ended``: its last token was sampled just now."""
    finished = time.monotonic() if ended else 0.0
    peaks = request.peaks() if ended else ()
    return RequestTimings(request.queued, request.started, request.first_token, finished, peaks)


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
        tiles=picture.n_tiles,
    )
