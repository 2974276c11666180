"""Tokenizing that takes long, in a thread beside the loop: piece by piece, in turn for each client.

No stream waits for a long text, and a long text does not wait for a longer one. The next piece is
of the client who took least.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.engine.client_time import ClientTime
from server.engine.cpu_cores import unbind
from server.engine.intake import overflow_message
from server.engine.prompt_tokens import (
    Text,
    Vocabulary,
    fragments,
    tokenize_fragments,
    with_bos_and_eos,
)
from server.engine.request import ImageSegment, Segment, TokenSegment
from server.engine.runner import Runner
from server.engine.seams import PIECE, Seams
from server.errors import ContextLengthExceeded, EngineError, LlavaError, RequestError
from server.messages import (
    AddRequest,
    Counted,
    CountRequest,
    DetokenizeRequest,
    EmbedRequest,
    ImageInput,
    LiteralText,
    PromptPart,
    Rejected,
    StepOutputs,
    TokenIds,
    Tokenized,
    TokenizeRequest,
)

logger = logging.getLogger(__name__)

Prompt = AddRequest | EmbedRequest | CountRequest
Job = Prompt | TokenizeRequest | DetokenizeRequest
Steps = Iterator[None]

# Seconds of processor time that one text may take.
_LIMIT: Final = 30.0
# Seconds in which a prompt that is too long is still counted to its end.
_COUNTED: Final = 2.0


@dataclass(slots=True, frozen=True)
class TokenizedPrompt:
    """A prompt whose tokens are known; a message to the loop."""

    message: AddRequest | EmbedRequest
    segments: tuple[Segment, ...]


def is_long(parts: Sequence[PromptPart]) -> bool:
    """Whether a prompt's texts are more than the loop should tokenize itself."""
    return sum(len(_plain(part)) for part in parts if isinstance(part, str | LiteralText)) > PIECE


class TokenizeThread:
    """Works on a piece of each job in turn.

    ``deliver`` takes a prompt on, ``send`` takes answers to the web process; both are called in
    this thread. The loop calls ``submit``, ``drop`` and ``release``.
    """

    def __init__(
        self,
        runner: Runner,
        deliver: Callable[[TokenizedPrompt], None],
        send: Callable[[StepOutputs], None],
        client_time: ClientTime,
    ) -> None:
        self._runner = runner
        self._client_time = client_time
        self._deliver = deliver
        self._send = send
        self._held: set[str] = set()
        self._new: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="texts", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a job; returns at once."""
        self._client_time.note(job.account)
        self._held.add(job.request_id)
        self._new.put(job)

    def drop(self, request_id: str) -> bool:
        """The client has gone. Whether its job was here; a prompt's counts until ``release``."""
        return self.release(request_id)

    def release(self, request_id: str) -> bool:
        """The loop takes a delivered prompt. False where it was dropped meanwhile."""
        held = request_id in self._held
        self._held.discard(request_id)
        return held

    def close(self) -> None:
        """Gives up what is not done and ends the thread after the piece in work."""
        self._held.clear()
        self._new.put(None)
        self._thread.join()

    def _work(self) -> None:
        unbind()
        if self._runner.vocabulary is not None:
            self._runner.vocabulary.seams(PIECE + 1)  # takes half a second, once
        # In the order in which they had their last piece.
        jobs: dict[str, tuple[Job, Steps]] = {}
        while True:
            while not jobs or not self._new.empty():
                new = self._new.get()
                if new is None:
                    return
                jobs[new.request_id] = new, self._steps(new)
            jobs = {name: each for name, each in jobs.items() if name in self._held}
            if not jobs:
                continue
            job = self._client_time.next_of([job for job, _ in jobs.values()])
            _, steps = jobs.pop(job.request_id)
            with suppress(StopIteration), self._client_time.charging(job.account):
                next(steps)
                jobs[job.request_id] = job, steps

    def _steps(self, job: Job) -> Steps:
        """Does the job, a piece at a time."""
        try:
            if isinstance(job, AddRequest | EmbedRequest):
                segments = yield from tokenize_long(job.parts, self._runner)
                self._deliver(TokenizedPrompt(job, segments))
            elif isinstance(job, CountRequest):
                self._answer((yield from count_long(job, self._runner)))
            else:
                self._answer((yield from answer(job, self._runner.vocabulary)))
        except LlavaError as error:
            self._answer(Rejected(job.request_id, error))
        except Exception as error:  # the thread lives on for other clients
            logger.exception("a text cannot be tokenized")
            self._answer(Rejected(job.request_id, EngineError(f"tokenizing failed: {error}")))

    def _answer(self, output: Counted | Rejected | Tokenized) -> None:
        self._held.discard(output.request_id)
        self._send(StepOutputs((output,)))


def answer(job: TokenizeRequest | DetokenizeRequest, vocabulary: Vocabulary) -> Any:
    """The answer to one job; a generator that yields after each piece."""
    if isinstance(job, DetokenizeRequest):
        tokens = yield from _known_tokens(job.tokens, vocabulary.n_vocab)
    else:
        texts: list[Text] = [job.text if job.parse_special else LiteralText(job.text)]
        clock = _Clock("content")
        found = []
        for piece in _pieces(texts, vocabulary):
            clock.check()
            found.append(piece)
            yield
            clock.go_on()
        tokens = np.concatenate(found) if found else np.zeros(0, np.int32)
        if job.add_special:
            tokens = _wrapped(tokens, vocabulary)
    used = np.unique(tokens).tolist()
    pieces = {token: vocabulary.whole_piece(token) for token in used}
    return Tokenized(job.request_id, tokens.tobytes(), pieces)


def _known_tokens(ids: Sequence[int], n_vocab: int) -> Any:
    """The ids as an array, checked a piece at a time; a generator. Raises RequestError."""
    tokens = np.zeros(len(ids), np.int32)
    for start in range(0, len(ids), PIECE):
        piece = np.array(ids[start : start + PIECE])
        wrong = np.flatnonzero((piece < 0) | (piece >= n_vocab))
        if len(wrong):
            place = f"tokens[{start + wrong[0]}]"
            message = f"{place}: ids go from 0 to {n_vocab - 1} here"
            raise RequestError(message, param=place, code="invalid_value")
        tokens[start : start + PIECE] = piece
        yield
    return tokens


def count_long(job: CountRequest, runner: Runner) -> Any:
    """The tokens of a prompt, which may exceed the context; a generator."""
    if any(isinstance(part, TokenIds) for part in job.parts):
        segments = runner.tokenize(job.parts)
    else:
        text = yield from _text_tokens(job.parts, runner, most=None)
        if not any(isinstance(part, ImageInput) for part in job.parts):
            return Counted(job.request_id, len(text), 0)
        # libmtmd would tokenize the texts again: it is given those of prompts that can be served.
        if len(text) > runner.n_ctx_seq:
            pictures = _count_pictures(job.parts, runner)
            return Counted(job.request_id, len(text) + pictures, pictures)
        segments = runner.tokenize(job.parts)
    return Counted(
        job.request_id, sum(segment.size for segment in segments), _size_of_pictures(segments)
    )


def _count_pictures(parts: Sequence[PromptPart], runner: Runner) -> int:
    """The tokens of a prompt's pictures, without its texts."""
    images = tuple(part for part in parts if isinstance(part, ImageInput))
    return _size_of_pictures(runner.tokenize(images))


def _size_of_pictures(segments: Sequence[Segment]) -> int:
    return sum(segment.size for segment in segments if isinstance(segment, ImageSegment))


def tokenize_long(parts: Sequence[PromptPart], runner: Runner) -> Any:
    """The segments of a prompt; a generator that yields after each piece of its texts.

    Raises RequestError where the texts alone do not fit the context, or take too long.
    """
    if any(isinstance(part, TokenIds) for part in parts):
        yield
        return runner.tokenize(parts)
    tokens = yield from _text_tokens(parts, runner, most=runner.n_ctx_seq)
    if not any(isinstance(part, ImageInput) for part in parts):
        return (TokenSegment(tokens),)
    if len(tokens) > runner.n_ctx_seq:
        pictures = _count_pictures(parts, runner)
        raise _overflow(len(tokens) + pictures, runner.n_ctx_seq, pictures)
    # libmtmd knows what belongs around pictures; a text that fits the context is soon tokenized.
    return runner.tokenize(parts)


def _text_tokens(parts: Sequence[PromptPart], runner: Runner, *, most: int | None) -> Any:
    """The tokens of all texts; not to their end where they are more than ``most`` for long."""
    texts = [part for part in parts if isinstance(part, str | LiteralText)]
    clock, found, total = _Clock("messages"), [], 0
    for piece in _pieces(texts, runner.vocabulary):
        found.append(piece)
        total += len(piece)
        if most is not None and total > most and clock.spent > _COUNTED:
            raise _overflow(total, most, more=True)
        clock.check()
        yield
        clock.go_on()
    tokens = np.concatenate(found) if found else np.zeros(0, np.int32)
    return _wrapped(tokens, runner.vocabulary)


def _overflow(
    total: int, most: int, pictures: int = 0, *, more: bool = False
) -> ContextLengthExceeded:
    words = overflow_message(total, pictures, most)
    if more:
        words = words.replace(f"has {total}", f"has more than {total}", 1)
    return ContextLengthExceeded(words, param="messages")


class _Clock:
    """The processor time that one text takes, without that of others between its pieces."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._before = 0.0
        self.go_on()

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return self._before + time.thread_time() - self._start

    def go_on(self) -> None:
        """The next piece begins."""
        self._start = time.thread_time()

    def check(self) -> None:
        """A piece ends. Raises RequestError where the text has had its time."""
        self._before = self.spent
        if self._before > _LIMIT:
            raise RequestError(
                f"{self._param}: tokenizing this text takes longer than the {_LIMIT:.0f} seconds"
                " that one text may take; send a shorter one",
                param=self._param,
                code="text_too_long",
            )


def _pieces(texts: Sequence[Text], vocabulary: Vocabulary) -> Iterator[NDArray[np.int32]]:
    """The tokens of texts that follow each other, piece by piece, without BOS and EOS."""
    seams = vocabulary.seams(sum(len(_plain(text)) for text in texts))
    specials = vocabulary.special_tokens()
    stand_in = seams.stand_in if seams else ""
    head = len(vocabulary.tokenize(stand_in, add_special=False)) if stand_in else 0
    for number, piece in enumerate(split(texts, seams) if seams else [list(texts)]):
        first = number == 0
        cut = fragments(piece if first or not stand_in else [stand_in, *piece], specials)
        tokens = tokenize_fragments(cut, vocabulary)
        yield np.array(tokens if first else tokens[head:], np.int32)


def split(texts: Sequence[Text], seams: Seams) -> Iterator[list[Text]]:
    """The texts, joined and cut at seams; what was literal stays so."""
    plain = [_plain(text) for text in texts]
    whole = "".join(plain)
    # What is no character becomes a question mark in UTF-8; seams are those of what is tokenized.
    whole = whole.encode("utf-8", "replace").decode()
    ends = np.cumsum([len(text) for text in plain]).tolist()
    place, number = 0, 0
    for start, end in pairwise([0, *seams.cuts(whole), len(whole)]):
        piece: list[Text] = []
        place = start
        while place < end:
            while ends[number] <= place:
                number += 1
            stop = min(ends[number], end)
            text = whole[place:stop]
            piece.append(LiteralText(text) if isinstance(texts[number], LiteralText) else text)
            place = stop
        yield piece


def _wrapped(tokens: NDArray[np.int32], vocabulary: Vocabulary) -> NDArray[np.int32]:
    around = with_bos_and_eos([], vocabulary)
    front = around[:1] if vocabulary.add_bos else []
    parts = [np.array(front, np.int32), tokens, np.array(around[len(front) :], np.int32)]
    return np.concatenate(parts)


def _plain(text: Text) -> str:
    return text.text if isinstance(text, LiteralText) else text
