"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError

from server.api.chat_tools import ChatToolChoice, ChatTools
from server.api.errors import validation_error
from server.api.grammars import ResponseFormat
from server.api.sampling_schema import Count, SamplingFields, check_limits
from server.api.schema import ChatMessage, Strict
from server.api.unsupported import refuse_unsupported
from server.errors import RequestError
from server.sampling import SamplingParams

_MAX_PARTS = 10_000


class StreamOptions(Strict):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class ChatRequest(SamplingFields):
    """A chat completion as OpenAI's specification has it, as far as it is served."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Count | None = None
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: ChatTools | None = None
    tool_choice: ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continues(self) -> bool:
        """Whether the last message is begun only: an assistant's, unless told otherwise."""
        last = self.messages[-1]
        ours = last.role == "assistant" and not last.tool_calls
        return ours and self.continue_final_message is not False

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be generated, by any of the names for it."""
        return super().most_tokens or self.max_completion_tokens

    def sampling(self) -> SamplingParams:
        """The sampling parameters, with the log-probabilities asked for."""
        count = self.top_logprobs or 0 if self.logprobs else None
        return replace(super().sampling(), logprobs=count)


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """Validate a body. Raises RequestError or UnsupportedParameter, naming the field."""
    refuse_unsupported(body)
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as exc:
        raise validation_error(exc.errors(include_url=False, include_input=False)) from exc
    if sum(len(message.pieces) for message in request.messages) > _MAX_PARTS:
        raise RequestError(
            f"more than {_MAX_PARTS} content parts", param="messages", code="invalid_value"
        )
    check_limits(request, request.max_completion_tokens)
    _check_continuation(request)
    if request.top_logprobs and not request.logprobs:
        raise RequestError(
            "top_logprobs is only allowed when logprobs is true",
            param="top_logprobs",
            code="invalid_value",
        )
    if request.stream_options and not request.stream:
        raise RequestError(
            "stream_options is only allowed when stream is true",
            param="stream_options",
            code="invalid_value",
        )
    return request


def _check_continuation(request: ChatRequest) -> None:
    roles = [message.role for message in request.messages]
    wrong = None
    if request.continue_final_message and not request.continues:
        wrong = "continue_final_message", "the last message is not the assistant's"
    elif request.continue_final_message and request.add_generation_prompt:
        wrong = "continue_final_message", "add_generation_prompt is true as well"
    elif request.add_generation_prompt is False and not request.continues:
        wrong = "add_generation_prompt", "without it only an assistant's message can be continued"
    elif request.continues and roles[-2:] == ["assistant", "assistant"]:
        wrong = f"messages[{len(roles) - 1}]", "two messages of the assistant's are at the end"
    if wrong is not None:
        param, reason = wrong
        raise RequestError(f"{param}: {reason}", param=param, code="invalid_value")
