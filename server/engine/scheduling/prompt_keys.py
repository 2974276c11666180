"""What stands at each position of a prompt, so that two can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.engine.request import ImageSegment, Segment

Keys = NDArray[np.int64]

# A picture's positions get keys above all token ids; their number counts in the low bits.
_PICTURE, _INDEX = 1 << 62, 0xFFFF
_WORTH_WAITING = 16


def keys_of(segments: Sequence[Segment], output_tokens: Sequence[int] = ()) -> Keys:
    """What stands in each position, int64 [n, 2]: a token's id, or a picture's hash and place.

    Two prompts with the same keys have the same embeddings. Of the picture's SHA-256, which
    covers its bytes and its preprocessing, 110 bits go in: no client can make a picture that
    passes for another client's.
    """
    tokens = np.zeros((len(output_tokens), 2), np.int64)
    tokens[:, 0] = output_tokens
    return np.concatenate([*map(_keys_of_segment, segments), tokens])


def _keys_of_segment(segment: Segment) -> Keys:
    keys = np.zeros((segment.size, 2), np.int64)
    if isinstance(segment, ImageSegment):
        digest = int(segment.picture.image.digest, 16)
        places = np.arange(segment.first_row, segment.first_row + segment.size)
        keys[:, 0] = (_PICTURE | (digest & (_PICTURE - 1) & ~_INDEX)) + places
        keys[:, 1] = digest >> 62 & (_PICTURE * 2 - 1)
    else:
        keys[:, 0] = segment.tokens
    return keys


def common_prefix(one: Keys, other: Keys) -> int:
    """How many positions two key arrays share from the start.

    Called for each waiting request and each sequence, in every step: argmax stops at the first
    difference, and a row of two needs no axis of its own.
    """
    size = min(len(one), len(other))
    if not size:
        return 0
    different = one[:size].ravel() != other[:size].ravel()
    first = int(different.argmax())
    return first // 2 if different[first] else size


def begins_with(keys: Keys, start: Keys) -> bool:
    """Whether ``start`` is all that ``keys`` begin with."""
    return common_prefix(keys, start) == len(start)


def worth_waiting(keys: Keys) -> bool:
    """Whether it is better to wait until another request has computed these positions.

    A picture always: it is encoded and prefilled once. A few tokens of text are computed
    faster in one batch with others than one after the other.
    """
    return len(keys) >= _WORTH_WAITING or bool((keys[:, 0] >= _PICTURE).any())
