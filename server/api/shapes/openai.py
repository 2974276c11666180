"""A chat completion, whole and in chunks, and how it counts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.shapes.base import Answer, ErrorAnswer
from server.api.shapes.pictures import PictureReport

Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]


class PromptDetails(Answer):
    """Of the prompt's tokens, those taken from the cache and those of pictures."""

    cached_tokens: Count
    image_tokens: Count


class CompletionDetails(Answer):
    """Of the answer's tokens, those of thoughts before it."""

    reasoning_tokens: Count


class Usage(Answer):
    """Tokens of prompt and answer; details of the answer's only where the model thought."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | None = None


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
    """What the model says; content is null where it only calls. ``reasoning_content`` only where
    it thought before.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
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
    reasoning_content: str | None = None
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


class EmbeddingDetails(Answer):
    """How many of the tokens are pictures."""

    image_tokens: Count


class EmbeddingUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: Count
    total_tokens: Count
    prompt_tokens_details: EmbeddingDetails


class EmbeddingObject(Answer):
    """One vector: numbers, or float32 in little-endian order as base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingList(Answer):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


class VectorOfOne(Answer):
    """llama-server's: the vector in a list."""

    index: Count
    embedding: list[list[float] | str]


class FileObject(Answer):
    """An upload."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(Answer):
    """A page of uploads."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Answer):
    """An upload is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class Architecture(Answer):
    """What goes in and what comes out, as OpenRouter and llama.cpp's router list it."""

    input_modalities: list[Literal["text", "image"]]
    output_modalities: list[Literal["text"]]


class ModelObject(Answer):
    """A model; ``meta`` holds its facts, under llama-server's names where it has them."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    capabilities: list[Literal["completion", "multimodal"]]
    max_model_len: int
    context_length: int
    architecture: Architecture
    meta: dict[str, Any]


class ModelInShort(Answer):
    """A model as llama-server lists it for Ollama's clients."""

    name: str
    model: str
    type: Literal["model"]
    capabilities: list[Literal["completion", "multimodal"]]
    details: dict[str, str]


class ModelList(Answer):
    """The one model, in lists of two shapes, as llama-server has it."""

    object: Literal["list"]
    data: list[ModelObject]
    models: list[ModelInShort]
