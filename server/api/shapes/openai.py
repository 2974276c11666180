"""OpenAI's chat completions and completions, whole and in chunks, and embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from server.api.shapes.base import ErrorAnswer, shape
from server.api.shapes.pictures import PictureReport

Count = Annotated[int, Field(ge=0)]
ChatFinish = Literal["stop", "length", "tool_calls"]
TextFinish = Literal["stop", "length"]
Milliseconds = Annotated[float, Field(ge=0)]


@shape
class PromptDetails(TypedDict):
    """Of the prompt's tokens, those taken from the cache and those of pictures."""

    cached_tokens: Count
    image_tokens: Count


@shape
class CompletionDetails(TypedDict):
    """Of the answer's tokens, those of thoughts before it."""

    reasoning_tokens: Count


@shape
class Usage(TypedDict):
    """Tokens of prompt and answer; details of the answer's only where the model thought."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails
    completion_tokens_details: NotRequired[CompletionDetails]


@shape
class Timings(TypedDict):
    """How long it took, under llama-server's names; times in milliseconds.

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


@shape
class Peak(TypedDict):
    """The most bytes that the engine has held of a device, and how far this request raised it."""

    device: str
    bytes: Count
    raised_by: Count


class TimingFields(TypedDict):
    """Known at an answer's end; the peaks where more memory was held than ever before."""

    timings: NotRequired[Timings]
    memory_peaks: NotRequired[list[Peak]]


class ProgressFields(TypedDict):
    """What a chunk of a stream says of its answer so far, where that was asked for."""

    usage: NotRequired[Usage]
    timings: NotRequired[Timings]


class ImageFields(TypedDict):
    """Where there were pictures."""

    images: NotRequired[list[PictureReport]]


@shape
class TopLogprob(TypedDict):
    """A token that might have been chosen, how likely it was (natural logarithm), and its bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


@shape
class RankedToken(TypedDict):
    """A token in a place of the prompt: how likely it was, and its rank from 1."""

    logprob: float
    rank: Count
    decoded_token: str


# vLLM's: by token id, for each token of the prompt but the first.
PromptLogprobs = list[dict[str, RankedToken] | None]


class PromptScores(TypedDict):
    """Where the prompt's log-probabilities were asked for."""

    prompt_logprobs: NotRequired[PromptLogprobs]


@shape
class ChatLogprob(TopLogprob):
    """The token that was chosen, and the most likely ones, as many as were asked for."""

    top_logprobs: list[TopLogprob]


@shape
class ChatLogprobs(TypedDict):
    """Of each token whose text is in the answer."""

    content: list[ChatLogprob] | None
    refusal: None


@shape
class ChatCalled(TypedDict):
    """A function's name, and the text of a JSON object with its arguments."""

    name: str
    arguments: str


@shape
class ChatCall(TypedDict):
    """A call by the model."""

    id: str
    type: Literal["function"]
    function: ChatCalled


@shape
class ChatAnswerMessage(TypedDict):
    """What the model says; content is null where it only calls. ``reasoning_content`` only where
    it thought before.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ChatCall]]


@shape
class ChatCalledDelta(TypedDict):
    """The name in a call's first piece, more of its arguments in those after it."""

    name: NotRequired[str]
    arguments: str


@shape
class ChatCallDelta(TypedDict):
    """What is new of the call ``index``; its id comes with the first piece."""

    index: Count
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: ChatCalledDelta


@shape
class ChatChoice(TypedDict):
    """One answer."""

    index: Count
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish


@shape
class ChatCompletion(TypedDict):
    """A chat completion in one piece. ``images`` only where there were pictures, ``memory_peaks``
    where more memory was held than ever before.
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: NotRequired[PromptLogprobs]
    timings: NotRequired[Timings]
    memory_peaks: NotRequired[list[Peak]]
    images: NotRequired[list[PictureReport]]


@shape
class ChatDelta(TypedDict):
    """What is new."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ChatCallDelta]]


@shape
class ChatChunkChoice(TypedDict):
    """What is new of one answer; ``finish_reason`` comes with the last piece."""

    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None


@shape
class ChatChunk(TypedDict):
    """A piece of a streamed chat completion. After the last comes ``data: [DONE]``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage]
    timings: NotRequired[Timings]
    memory_peaks: NotRequired[list[Peak]]
    images: NotRequired[list[PictureReport]]


@shape
class InputTokens(TypedDict):
    """How many tokens a request has."""

    object: Literal["response.input_tokens"]
    input_tokens: Count
    text_tokens: Count
    image_tokens: Count


ChatEvent = ChatChunk | ErrorAnswer


@shape
class CompletionLogprobs(TypedDict):
    """Log-probabilities in OpenAI's older shape; ``text_offset`` counts characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


@shape
class CompletionChoice(TypedDict):
    """One answer, or a piece of one."""

    text: str
    index: Count
    logprobs: CompletionLogprobs | None
    finish_reason: TextFinish | None
    prompt_logprobs: NotRequired[PromptLogprobs]


@shape
class Completion(TypedDict):
    """A completion. ``timings`` where there is one choice, ``images`` where there were any."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: NotRequired[Timings]
    memory_peaks: NotRequired[list[Peak]]
    images: NotRequired[list[PictureReport]]


@shape
class CompletionChunk(TypedDict):
    """A piece of a streamed completion. After the last comes ``data: [DONE]``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage]
    timings: NotRequired[Timings]
    memory_peaks: NotRequired[list[Peak]]
    images: NotRequired[list[PictureReport]]


CompletionEvent = CompletionChunk | ErrorAnswer


@shape
class EmbeddingDetails(TypedDict):
    """How many of the tokens are pictures."""

    image_tokens: Count


@shape
class EmbeddingUsage(TypedDict):
    """Tokens of all inputs."""

    prompt_tokens: Count
    total_tokens: Count
    prompt_tokens_details: EmbeddingDetails


@shape
class EmbeddingObject(TypedDict):
    """One vector: numbers, or float32 in little-endian order as base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


@shape
class EmbeddingList(TypedDict):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


@shape
class VectorOfOne(TypedDict):
    """llama-server's: the vector in a list."""

    index: Count
    embedding: list[list[float] | str]
