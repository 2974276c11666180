"""Log-probabilities of tokens, from the model's logits alone: before any sampler and grammar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What stands for "never", which JSON cannot write; OpenAI's API gives this number, too.
LOWEST = -9999.0


def top_logprobs(logits: NDArray[np.float32], count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log of the softmax's denominator, and the ``count`` most likely tokens.

    ``logits`` are float32 [n_vocab]; a token's log-probability is its logit less the first result.
    Tokens come with their log-probabilities, the most likely first.
    """
    highest = float(logits.max())
    denominator = highest + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    count = min(count, len(logits))
    if not count:
        return denominator, []
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    # Equal ones by their id, so that the order never changes.
    best = np.flatnonzero(logits >= least)
    best = best[np.lexsort((best, -logits[best]))][:count]
    return denominator, [(int(t), bounded(float(logits[t]) - denominator)) for t in best]


def bounded(logprob: float) -> float:
    """The log-probability, or the lowest number that stands for none."""
    return logprob if logprob > LOWEST else LOWEST
