"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator

from server.api.errors import validation_error
from server.api.schema import ChatMessage, Strict, Text
from server.api.unsupported import refuse_unsupported
from server.errors import RequestError
from server.sampling import SamplingParams

_MAX_STOPS = 16
_MAX_PARTS = 10_000
_MAX_INT = 2**31 - 1
# llama.cpp's seeds have 32 bits, and the highest one means "choose one".
_SEEDS = 2**32 - 1

T = TypeVar("T")
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=_MAX_INT)]
StopText = Annotated[Text, Field(min_length=1, max_length=500)]


class StreamOptions(Strict):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class ChatRequest(Strict):
    """A chat completion as OpenAI's specification has it, as far as it is served."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Ratio | None = None
    min_p: Ratio | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MAX_INT)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[list[StopText], Field(max_length=_MAX_STOPS)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> SamplingParams:
        """The sampling parameters, defaults filled in."""
        default = SamplingParams()
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=_or(self.temperature, default.temperature),
            top_p=_or(self.top_p, default.top_p),
            top_k=max(_or(self.top_k, default.top_k), 0),
            min_p=_or(self.min_p, default.min_p),
            presence_penalty=_or(self.presence_penalty, default.presence_penalty),
            frequency_penalty=_or(self.frequency_penalty, default.frequency_penalty),
            seed=None if self.seed is None else self.seed % _SEEDS,
            stop=tuple(self.stop or ()),
        )


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
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise RequestError(
            "max_tokens and max_completion_tokens differ", param="max_tokens", code="invalid_value"
        )
    if request.stream_options and not request.stream:
        raise RequestError(
            "stream_options is only allowed when stream is true",
            param="stream_options",
            code="invalid_value",
        )
    return request


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
