"""A completion, whole and in chunks."""

from __future__ import annotations

from typing import Literal

from server.api.answers.base import Answer
from server.api.answers.chat import Count, Timings, Usage
from server.api.answers.errors import ErrorAnswer
from server.api.answers.pictures import PictureReport


class CompletionLogprobs(Answer):
    """Log-probabilities in OpenAI's older shape; ``text_offset`` counts characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One answer, or a piece of one."""

    text: str
    index: Count
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Answer):
    """A completion. ``timings`` where there is one choice, ``images`` where there were any."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: Timings | None = None
    images: list[PictureReport] | None = None


class CompletionChunk(Answer):
    """A piece of a streamed completion. After the last comes ``data: [DONE]``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    images: list[PictureReport] | None = None


CompletionEvent = CompletionChunk | ErrorAnswer
