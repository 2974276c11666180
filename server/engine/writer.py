"""What one request says: text as it may be sent, and the log-probabilities of its tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from server.engine.detokenizer import Detokenizer
from server.engine.sample import Sample
from server.messages import TokenLogprob
from server.sampling import SamplingParams


class Writer:
    """Lives as long as its request. ``said`` are the pieces of tokens that were sent before."""

    def __init__(
        self, sampling: SamplingParams, *, strip_first_space: bool, said: Iterable[bytes] = ()
    ) -> None:
        # A text that has to fit a grammar, or goes on another, is not changed afterwards.
        strip = strip_first_space and sampling.grammar is None and not sampling.continues
        self._detokenizer = Detokenizer(sampling.stop, strip_first_space=strip)
        # The characters that a token begins before and ends with, counted from the text's start.
        self._waiting: deque[tuple[int, int, TokenLogprob]] = deque()
        for piece in said:
            self._detokenizer.push(piece)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._detokenizer.stopped

    @property
    def stop(self) -> str | None:
        """The stop string that has come."""
        return self._detokenizer.stop

    def write(self, sample: Sample, piece: bytes) -> str:
        """Takes a token's bytes; returns the text that is now safe to send."""
        detokenizer = self._detokenizer
        if sample.logprob is None:
            return detokenizer.push(piece)
        start = detokenizer.taken
        text = detokenizer.push(piece)
        end = detokenizer.taken + detokenizer.within_character
        self._waiting.append((start, end, sample.logprob))
        return text

    def flush(self) -> str:
        """The end: the text that was held back."""
        return self._detokenizer.flush()

    def logprobs(self, *, ended: bool) -> tuple[TokenLogprob, ...]:
        """Those of tokens whose text has been returned, or at the end some of it."""
        if not self._waiting:
            return ()
        shown, ready = self._detokenizer.shown, []
        while self._waiting:
            start, end, logprob = self._waiting[0]
            if end > shown and not (ended and start < shown):
                break
            ready.append(logprob)
            self._waiting.popleft()
        return tuple(ready)
