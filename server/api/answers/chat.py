"""A chat completion, whole and in chunks, and how it counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.answers.base import Answer
from server.api.answers.errors import ErrorAnswer
from server.api.answers.pictures import PictureReport

Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]


class PromptDetails(Answer):
    """Of the prompt's tokens, those taken from the cache and those of pictures."""

    cached_tokens: Count
    image_tokens: Count


class Usage(Answer):
    """Tokens of prompt and answer."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails


class Timings(Answer):
    """How long it took, as llama-server tells it; times in milliseconds.

    ``cache_n`` tokens were there, ``prompt_n`` computed, ``predicted_n`` answered. The first one
    comes with the prompt: the speeds count those after it.
    """

    cache_n: Count
    prompt_n: Count
    prompt_ms: Milliseconds
    prompt_per_token_ms: Milliseconds
    prompt_per_second: Milliseconds
    predicted_n: Count
    predicted_ms: Milliseconds
    predicted_per_token_ms: Milliseconds
    predicted_per_second: Milliseconds


class Peak(Answer):
    """The most bytes that the engine has held of a device, and how far this request raised it."""

    device: str
    bytes: Count
    raised_by: Count


class TopLogprob(Answer):
    """A token that might have been chosen, how likely it was (natural logarithm), and its bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """The token that was chosen, and the most likely ones, as many as were asked for."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Of each token whose text is in the answer."""

    content: list[ChatLogprob] | None
    refusal: None = None


class ChatCalled(Answer):
    """A function's name, and the text of a JSON object with its arguments."""

    name: str
    arguments: str


class ChatCall(Answer):
    """A call by the model."""

    id: str
    type: Literal["function"]
    function: ChatCalled


class ChatAnswerMessage(Answer):
    """What the model says; content is null where it only calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[ChatCall] | None = None


class ChatCalledDelta(Answer):
    """The name in a call's first piece, more of its arguments in those after it."""

    name: str | None = None
    arguments: str


class ChatCallDelta(Answer):
    """What is new of the call ``index``; its id comes with the first piece."""

    index: Count
    id: str | None = None
    type: Literal["function"] | None = None
    function: ChatCalledDelta


class ChatChoice(Answer):
    """One answer."""

    index: Count
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Answer):
    """A chat completion in one piece. ``images`` only where there were pictures, ``memory_peaks``
    where more memory was held than ever before.
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | None = None
    memory_peaks: list[Peak] | None = None
    images: list[PictureReport] | None = None


class ChatDelta(Answer):
    """What is new."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ChatCallDelta] | None = None


class ChatChunkChoice(Answer):
    """What is new of one answer; ``finish_reason`` comes with the last piece."""

    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatChunk(Answer):
    """A piece of a streamed chat completion. After the last comes ``data: [DONE]``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    memory_peaks: list[Peak] | None = None
    images: list[PictureReport] | None = None


class InputTokens(Answer):
    """How many tokens a request has."""

    object: Literal["response.input_tokens"]
    input_tokens: Count
    text_tokens: Count
    image_tokens: Count


ChatEvent = ChatChunk | ErrorAnswer
