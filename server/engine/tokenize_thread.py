"""Tokenizing and detokenizing for their own sake, in a thread: no stream waits for a long text."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from server.errors import RequestError
from server.messages import DetokenizeRequest, Rejected, Tokenized, TokenizeRequest

Job = TokenizeRequest | DetokenizeRequest


class Vocabulary(Protocol):
    """What is needed of a model. llama.cpp's vocabulary does not change and may be shared."""

    n_vocab: int

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def whole_piece(self, token: int) -> bytes:
        """The bytes of a token, special ones written out."""
        ...


class TextThread:
    """Answers one job after the other; ``done`` is called with the result, in this thread."""

    def __init__(
        self, vocabulary: Vocabulary, done: Callable[[Tokenized | Rejected], None]
    ) -> None:
        self._vocabulary = vocabulary
        self._done = done
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="texts", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a job; returns at once."""
        self._jobs.put(job)

    def close(self) -> None:
        """Waits for the job in work, if any, and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._done(run(job, self._vocabulary))


def run(job: Job, vocabulary: Vocabulary) -> Tokenized | Rejected:
    """One job, here and now."""
    if isinstance(job, TokenizeRequest):
        tokens = tuple(
            vocabulary.tokenize(
                job.text, add_special=job.add_special, parse_special=job.parse_special
            )
        )
    else:
        tokens = job.tokens
        for place, token in enumerate(tokens):
            if not 0 <= token < vocabulary.n_vocab:
                message = f"tokens[{place}]: ids go from 0 to {vocabulary.n_vocab - 1} here"
                error = RequestError(message, param=f"tokens[{place}]", code="invalid_value")
                return Rejected(job.request_id, error)
    pieces = tuple(map(vocabulary.whole_piece, tokens))
    return Tokenized(job.request_id, tokens, pieces)
