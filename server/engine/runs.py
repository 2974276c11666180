"""From libmtmd's spans to the runs of a request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.engine.bindings.chunks import ImageSpan, Span
from server.engine.request import ImageRun, Picture, Run, TokenRun
from server.errors import RequestError
from server.messages import ImageInput


def make_runs(
    spans: Sequence[Span], images: Sequence[ImageInput], *, whole: bool
) -> tuple[Run, ...]:
    """The runs of a prompt with these pictures; ``whole`` ones are computed in one batch."""
    pictures = [_picture(image, index, spans) for index, image in enumerate(images)]
    first_rows = [0] * len(images)
    runs: list[Run] = []
    for span in spans:
        if isinstance(span, ImageSpan):
            index = span.picture
            place = first_rows[index], whole, span.positions
            runs.append(ImageRun(pictures[index], span.n_tokens, *place))
            first_rows[index] += span.n_tokens
        else:
            runs.append(TokenRun(np.array(span, np.int32)))
    return tuple(runs)


def _picture(image: ImageInput, index: int, spans: Sequence[Span]) -> Picture:
    tiles = [span for span in spans if isinstance(span, ImageSpan) and span.picture == index]
    total = sum(tile.n_tokens for tile in tiles)
    if len(tiles) == 1:
        return Picture(image, total, tiles[0].grid_width, tiles[0].grid_height)
    return Picture(image, total, total, 1, n_tiles=len(tiles))


def check_whole(runs: Sequence[Run], n_ubatch: int) -> None:
    """Refuses a picture that must be computed at once and cannot (llama_decode would abort).

    Raises:
        RequestError: names both numbers.
    """
    for run in runs:
        if isinstance(run, ImageRun) and run.whole and run.size > n_ubatch:
            raise RequestError(
                f"a picture takes {run.size} tokens, all of which this model attends to at once,"
                f" but {n_ubatch} can be computed at once; send a smaller one",
                param="messages",
            )
