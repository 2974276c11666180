"""Answer: one generation of the engine, measured, and divided into text and function calls."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final, Protocol, runtime_checkable

from server.api.http.record import ImageReport, current_record, note_relaxed
from server.api.shapes.openai import ChatFinish, TextFinish
from server.errors import EngineError
from server.messages import (
    Admitted,
    EncodedImage,
    FinishReason,
    ImageInput,
    RequestTimings,
    TokenLogprob,
    TokenOutput,
)
from server.messages.sampling import ThoughtRule
from server.metrics import ABORTED, Metrics
from server.tools.parse import CallBegin, CallParser, Content, Piece, Thought
from server.tools.reasoning import ThoughtParser, ThoughtTags
from server.tools.style import ToolStyle

log = logging.getLogger(__name__)

FINISH: Final[dict[FinishReason, TextFinish]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}


@dataclass(slots=True)
class Delta:
    """What one output of the engine adds to the answer ``index`` of its request.

    ``logprobs`` are those of tokens of the content; a call's are not sent. ``finish_reason`` is
    in OpenAI's words, and comes with the last one.
    """

    index: int
    pieces: list[Piece]
    output: TokenOutput
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: ChatFinish | None = None

    @property
    def text(self) -> str:
        """The content that is new."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Content))


class Answer:
    """The deltas of one generation, whose ``pictures`` are in the order of the prompt.

    ``style`` says how the model writes calls, None that there are none. Prompt and pictures are
    counted and reported if it is the ``first`` answer to its prompt.

    ``aclose`` must be awaited however it ends.
    """

    def __init__(
        self,
        outputs: AsyncIterator[Admitted | TokenOutput],
        metrics: Metrics,
        arrival: float,
        pictures: tuple[ImageInput, ...] = (),
        *,
        style: ToolStyle | None = None,
        thought: ThoughtRule | None = None,
        index: int = 0,
        first: bool = True,
    ) -> None:
        self._outputs = outputs
        self._metrics = metrics.requests
        self._picture_metrics = metrics.pictures
        self._arrival = arrival
        self._pictures = pictures
        self._index = index
        self._parser = CallParser(style) if style is not None else None
        self._thoughts: ThoughtParser | None = None
        if thought is not None:
            tags = ThoughtTags(thought.start, thought.end)
            self._thoughts = ThoughtParser(tags, begun=thought.begun)
        self._held: tuple[TokenLogprob, ...] = ()
        self._open = True
        self._begun = False
        self.first = first
        self.called = False
        self.prompt_tokens = 0
        self.image_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.reasoning_tokens = 0
        self.images: tuple[ImageReport, ...] = ()
        self.timings: RequestTimings | None = None
        self._decode_seconds = 0.0
        self.finish = ""
        self._record = current_record()
        self._record.answers.append(self)

    @property
    def may_call(self) -> bool:
        """Whether there may be calls in it."""
        return self._parser is not None

    @property
    def timings_so_far(self) -> RequestTimings | None:
        """``timings`` as if the last token received were the end."""
        times = self.timings
        if times is None or times.finished:
            return times
        return replace(times, finished=times.first_token + self._decode_seconds)

    async def admit(self) -> None:
        """Wait until the prompt was counted. Raises RequestError when it does not fit."""
        try:
            first = await anext(self._outputs)
            if not isinstance(first, Admitted):
                raise EngineError("the engine began without admitting the request")
        except BaseException as exc:
            self._open = False
            self.finish = "error" if isinstance(exc, Exception) else ABORTED
            await _close(self._outputs)
            raise
        self.prompt_tokens = first.prompt_tokens
        self.image_tokens = first.image_tokens
        note_relaxed(first.relaxed)
        if self.first:
            self._metrics.admitted(first.prompt_tokens, first.image_tokens, len(self._pictures))

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for output in self._outputs:
                if isinstance(output, TokenOutput):
                    self._take(output)
                    yield self._delta(output)
                    if output.finish_reason is not None:
                        return
            raise EngineError("the engine's outputs ended without a finish reason")
        except Exception:
            self._open = False
            self.finish = "error"
            raise

    async def aclose(self) -> None:
        """Abort what still runs."""
        await _close(self._outputs)
        self._end(ABORTED)

    def _delta(self, output: TokenOutput) -> Delta:
        reason: ChatFinish | None = None
        if output.finish_reason is not None:
            reason = FINISH[output.finish_reason]
        if self._parser is None and self._thoughts is None:
            pieces: list[Piece] = [Content(output.text)] if output.text else []
            return Delta(self._index, pieces, output, output.logprobs, reason)
        pieces = self._pieces(output)
        self.called |= any(isinstance(piece, CallBegin) for piece in pieces)
        if self.called and output.finish_reason is FinishReason.STOP:
            reason = "tool_calls"
        return Delta(self._index, pieces, output, self._content_logprobs(pieces, output), reason)

    def _pieces(self, output: TokenOutput) -> list[Piece]:
        """The thought is separated first; in what follows there may be calls."""
        cut = output.finish_reason is FinishReason.LENGTH
        ended = output.finish_reason is not None
        pieces: list[Piece] = [Content(output.text)] if output.text else []
        thoughts, calls = self._thoughts, self._parser
        if thoughts is not None:
            thinking = thoughts.thinking
            pieces = thoughts.push(output.text) + (thoughts.flush(cut=cut) if ended else [])
            if thinking and any(isinstance(piece, Thought) for piece in pieces):
                self.reasoning_tokens = output.completion_tokens
        if calls is None:
            return pieces
        found: list[Piece] = []
        for piece in pieces:
            found += calls.push(piece.text) if isinstance(piece, Content) else [piece]
        return found + (calls.flush(cut=cut) if ended else [])

    def _content_logprobs(
        self, pieces: list[Piece], output: TokenOutput
    ) -> tuple[TokenLogprob, ...]:
        # Text that may begin a call is held back, and so is what belongs to it.
        self._held += output.logprobs
        in_call = self._parser is not None and self._parser.in_call
        if in_call or not any(isinstance(piece, Content) for piece in pieces):
            return ()
        if self._thoughts is not None:
            self._held = self._without_thought(self._held, self._thoughts)
        ready, self._held = self._held, ()
        return ready

    def _without_thought(
        self, held: tuple[TokenLogprob, ...], thoughts: ThoughtParser
    ) -> tuple[TokenLogprob, ...]:
        """Without the tokens of the thought and of its tags, which come before all others."""
        size, thoughts.thought_bytes = thoughts.thought_bytes, 0
        skipped = 0
        while size > 0 and skipped < len(held):
            size -= len(held[skipped].piece)
            skipped += 1
        return held[skipped:]

    def _take(self, output: TokenOutput) -> None:
        self.completion_tokens = output.completion_tokens
        self.timings = output.timings or self.timings
        if not self._begun:
            self._begun = True
            self.cached_tokens = output.cached_tokens
            waited = time.monotonic() - self._arrival
            self._metrics.first_token(waited, self.prompt_tokens, self.cached_tokens, self.timings)
        elif output.gap:
            self._decode_seconds += output.gap
            self._metrics.token_gap(output.gap)
        if self._record.content is not None:
            self._record.content.answers.append(output.text)
        if output.images and self.first:
            self._record_images(output.images)
        if output.finish_reason is not None:
            self._end(output.finish_reason.value)

    def _record_images(self, images: tuple[EncodedImage, ...]) -> None:
        self.images = tuple(map(ImageReport, self._pictures, images))
        for report in self.images:
            self._picture_metrics.encoded(report.image, report.encoded)
            log.info("%s %s", self._record.request_id, report.line)

    def _end(self, reason: str) -> None:
        if self._open:
            self._open = False
            self.finish = reason
            seconds = time.monotonic() - self._arrival
            self._metrics.finished(reason, self.completion_tokens, seconds, self.timings)


async def _close(outputs: AsyncIterator[Admitted | TokenOutput]) -> None:
    """End an iterator of ``Engine.generate`` early, which aborts its request."""
    if isinstance(outputs, _Closable):
        await outputs.aclose()


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None:
        """As async generators have it."""
