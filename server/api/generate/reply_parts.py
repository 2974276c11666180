"""Parts of replies that the API families share: usage, timings, pictures, log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from server.api.fields.sampling import StreamFields
from server.api.http.record import ImageReport
from server.api.shapes.openai import (
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    ImageFields,
    InputTokens,
    ProgressFields,
    PromptLogprobs,
    RankedToken,
    TimingFields,
    TopLogprob,
    Usage,
)
from server.messages import Counted, RequestTimings, TokenLogprob


class Tally(Protocol):
    """What one answer took, or several together; each prompt is counted once."""

    @property
    def prompt_tokens(self) -> int:
        """The prompt's tokens."""

    @property
    def image_tokens(self) -> int:
        """Those of them that are pictures."""

    @property
    def cached_tokens(self) -> int:
        """Those of them that were taken from the cache."""

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""

    @property
    def reasoning_tokens(self) -> int:
        """Those of them that belong to thoughts which are separated from answers."""

    @property
    def images(self) -> tuple[ImageReport, ...]:
        """What became of the pictures."""

    @property
    def timings(self) -> RequestTimings | None:
        """When which stage was reached."""


class Running(Tally, Protocol):
    """One answer while it is generated."""

    @property
    def timings_so_far(self) -> RequestTimings | None:
        """``timings`` as if the last token received were the end."""


def timings(tally: Tally) -> TimingFields:
    """The field ``timings``, and ``memory_peaks`` where there were some.

    Empty before the end, or where an engine does not measure.

    Times are milliseconds. The prompt's begin when it gets a sequence, so waiting in the queue
    does not count, and pictures that had to be encoded do. The first token is free: it comes
    with the prompt's last batch, so the speed counts the ones after it. (Definitions as in
    llama.cpp's tools/server/server-common.h, ``server_slot_stats``.)
    """
    times = tally.timings
    return _timing_fields(tally, times) if times is not None and times.finished else {}


def progress(answer: Running, stream: StreamFields) -> ProgressFields:
    """What a chunk says of its answer so far: ``usage``, ``timings``, or nothing, as asked for."""
    found: ProgressFields = {}
    if stream.continuous_usage:
        found["usage"] = usage(answer)
    times = answer.timings_so_far if stream.timings_per_token else None
    if times is not None:
        found["timings"] = _timing_fields(answer, times)["timings"]
    return found


def _timing_fields(tally: Tally, times: RequestTimings) -> TimingFields:
    computed = tally.prompt_tokens - tally.cached_tokens
    predicted, steps = tally.completion_tokens, max(tally.completion_tokens - 1, 0)
    prefill, decode = times.prefill_seconds, times.decode_seconds
    found: TimingFields = {
        "timings": {
            "cache_n": tally.cached_tokens,
            "prompt_n": computed,
            "prompt_ms": _round(prefill * 1000),
            "prompt_per_token_ms": _ratio(prefill * 1000, computed),
            "prompt_per_second": _ratio(computed, prefill),
            "predicted_n": predicted,
            "predicted_ms": _round(decode * 1000),
            "predicted_per_token_ms": _ratio(decode * 1000, steps),
            "predicted_per_second": _ratio(steps, decode),
        }
    }
    if times.peaks:
        found["memory_peaks"] = [
            {"device": peak.device, "bytes": peak.bytes, "raised_by": peak.raised_by}
            for peak in times.peaks
        ]
    return found


def _ratio(value: float, of: float) -> float:
    return _round(value / of) if of > 0 else 0.0


def _round(value: float) -> float:
    return round(value, 3)


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> ChatLogprobs:
    """A chat choice's ``logprobs``. Bytes that are no text by themselves are sent as bytes."""
    return {"content": [_entry(token) for token in tokens], "refusal": None}


def text_logprobs(tokens: Iterable[TokenLogprob], offset: int) -> CompletionLogprobs:
    """A completion choice's ``logprobs`` in OpenAI's older shape, after ``offset`` characters."""
    texts: list[str] = []
    offsets: list[int] = []
    tokens = list(tokens)
    for token in tokens:
        texts.append(_text(token.piece))
        offsets.append(offset)
        offset += len(texts[-1])
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {_text(piece): logprob for _, piece, logprob in reversed(token.top)} for token in tokens
        ],
        "text_offset": offsets,
    }


def echoed_logprobs(prompt: Sequence[TokenLogprob], text: str, count: int) -> CompletionLogprobs:
    """``logprobs`` of the prompt's tokens, in the same shape; the first has none.

    ``text`` is the prompt as it is echoed: a BOS is not in it, nor the space that some vocabularies
    write before it.
    """
    found = text_logprobs((replace(token, top=token.top[:count]) for token in prompt), 0)
    offset = 0
    for number, piece in enumerate(found["tokens"]):
        found["text_offset"][number] = offset
        rest = next((p for p in (piece, piece.lstrip(" ")) if text.startswith(p, offset)), "")
        offset += len(rest)
    if prompt:
        found["token_logprobs"][0] = found["top_logprobs"][0] = None
    return found


def prompt_logprobs(prompt: Sequence[TokenLogprob], count: int) -> PromptLogprobs:
    """vLLM's ``prompt_logprobs``: for each token itself and the likeliest ones, by their ids."""
    return [_ranked(token, count) if number else None for number, token in enumerate(prompt)]


def _ranked(token: TokenLogprob, count: int) -> dict[str, RankedToken]:
    own = (token.token, token.piece, token.logprob)
    ranked = [(token.rank, own), *enumerate(token.top[:count], 1)]
    return {
        str(each): {"logprob": logprob, "rank": rank, "decoded_token": _text(piece)}
        for rank, (each, piece, logprob) in ranked
    }


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _entry(token: TokenLogprob) -> ChatLogprob:
    top = [_one(piece, logprob) for _, piece, logprob in token.top]
    return {**_one(token.piece, token.logprob), "top_logprobs": top}


def _one(piece: bytes, logprob: float) -> TopLogprob:
    return {"token": _text(piece), "logprob": logprob, "bytes": list(piece)}


def input_tokens_of(counted: Counted) -> InputTokens:
    """The answer of those endpoints that count and do no more."""
    return {
        "object": "response.input_tokens",
        "input_tokens": counted.prompt_tokens,
        "text_tokens": counted.prompt_tokens - counted.image_tokens,
        "image_tokens": counted.image_tokens,
    }


def usage(tally: Tally) -> Usage:
    """Tokens, with the pictures' share of the prompt."""
    found: Usage = {
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": tally.cached_tokens,
            "image_tokens": tally.image_tokens,
        },
    }
    if tally.reasoning_tokens:
        found["completion_tokens_details"] = {"reasoning_tokens": tally.reasoning_tokens}
    return found


def images(tally: Tally) -> ImageFields:
    """What became of the request's pictures, in order; nothing when there were none."""
    if not tally.images:
        return {}
    return {"images": [report.json for report in tally.images]}
