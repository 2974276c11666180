"""From a message to a request that fits the context."""

from __future__ import annotations

import time

from server.engine.request import ImageSegment, PromptScores, Request, Segment
from server.engine.runner import Runner
from server.errors import ContextLengthExceeded, RequestError
from server.memory.measured.system import MemoryPeaks
from server.messages import AddRequest, Counted, CountRequest, Rejected


def make_request(
    message: AddRequest,
    runner: Runner,
    memory_peaks: MemoryPeaks,
    segments: tuple[Segment, ...] | None = None,
) -> Request:
    """Tokenizes, if there are no ``segments`` yet, and counts.

    Raises RequestError where the prompt is empty, or does not fit.
    """
    if segments is None:
        segments = runner.tokenize(message.parts)
    total = sum(segment.size for segment in segments)
    pictures = sum(segment.size for segment in segments if isinstance(segment, ImageSegment))
    room = runner.n_ctx_seq - total
    if total == 0:
        raise RequestError("the prompt is empty", param="messages", code="invalid_value")
    if room < 1:
        raise ContextLengthExceeded(
            overflow_message(total, pictures, runner.n_ctx_seq),
            param="messages",
        )
    asked, count = message.sampling.max_tokens, message.sampling.prompt_logprobs
    if count is not None and pictures:
        raise RequestError(
            "log-probabilities of the prompt are of text alone, so it may have no pictures",
            param="prompt_logprobs",
        )
    return Request(
        request_id=message.request_id,
        segments=segments,
        sampling=message.sampling,
        arrival=message.arrival,
        max_new_tokens=room if asked is None else min(asked, room),
        queued=time.monotonic(),
        memory_peaks=memory_peaks.watch(),
        output_tokens=list(message.resumed),
        scores=None if count is None or message.resumed else PromptScores(count),
    )


def overflow_message(total: int, pictures: int, n_ctx: int) -> str:
    """In words by which clients recognize an overflow: OpenAI's first, then Anthropic's."""
    answer = " and the answer needs one more" if total == n_ctx else ""
    return (
        f"This model's maximum context length is {n_ctx} tokens, but the prompt has {total}"
        f" ({total - pictures} of text, {pictures} of pictures){answer}; prompt is too long:"
        f" {total} tokens > {n_ctx - bool(answer)} maximum. Shorten the messages or start the"
        " server with a larger --ctx-size."
    )


def count(runner: Runner, message: CountRequest) -> Counted | Rejected:
    """Tokenizes and counts. Nothing is encoded or queued, and it may exceed the context."""
    try:
        segments = runner.tokenize(message.parts)
    except RequestError as error:
        return Rejected(message.request_id, error)
    pictures = sum(segment.size for segment in segments if isinstance(segment, ImageSegment))
    return Counted(message.request_id, sum(segment.size for segment in segments), pictures)
