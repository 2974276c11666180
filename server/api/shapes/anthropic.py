"""Anthropic's Messages API: messages, their events, and errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from server.api.shapes.base import shape
from server.api.shapes.openai import Count
from server.api.shapes.pictures import PictureReport

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


@shape
class AnthropicUsage(TypedDict):
    """Tokens; what the cache held is not among ``input_tokens``."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count


@shape
class AnthropicText(TypedDict):
    """A block of text."""

    type: Literal["text"]
    text: str


@shape
class AnthropicToolUse(TypedDict):
    """A call; ``input`` is empty where tokens ran out in the middle of it."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


@shape
class AnthropicThinking(TypedDict):
    """What the model thought before it answered."""

    type: Literal["thinking"]
    thinking: str
    signature: str


AnthropicBlock = Annotated[
    AnthropicText | AnthropicThinking | AnthropicToolUse, Field(discriminator="type")
]


@shape
class AnthropicMessage(TypedDict):
    """A message in one piece. ``images`` only where there were pictures."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnthropicBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage
    images: NotRequired[list[PictureReport]]


@shape
class AnthropicMessageStart(TypedDict):
    """The message begins, empty."""

    type: Literal["message_start"]
    message: AnthropicMessage


@shape
class AnthropicPing(TypedDict):
    """Nothing new."""

    type: Literal["ping"]


@shape
class AnthropicBlockStart(TypedDict):
    """A block begins."""

    type: Literal["content_block_start"]
    index: Count
    content_block: AnthropicBlock


@shape
class AnthropicTextDelta(TypedDict):
    """More text."""

    type: Literal["text_delta"]
    text: str


@shape
class AnthropicInputDelta(TypedDict):
    """More of a call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


@shape
class AnthropicThinkingDelta(TypedDict):
    """More of a thought."""

    type: Literal["thinking_delta"]
    thinking: str


@shape
class AnthropicSignatureDelta(TypedDict):
    """A thought ends."""

    type: Literal["signature_delta"]
    signature: str


AnthropicDelta = Annotated[
    AnthropicTextDelta | AnthropicThinkingDelta | AnthropicSignatureDelta | AnthropicInputDelta,
    Field(discriminator="type"),
]


@shape
class AnthropicBlockDelta(TypedDict):
    """More of a block."""

    type: Literal["content_block_delta"]
    index: Count
    delta: AnthropicDelta


@shape
class AnthropicBlockStop(TypedDict):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: Count


@shape
class AnthropicStop(TypedDict):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


@shape
class AnthropicMessageDelta(TypedDict):
    """Why the message ended, and its usage in full."""

    type: Literal["message_delta"]
    delta: AnthropicStop
    usage: AnthropicUsage
    images: NotRequired[list[PictureReport]]


@shape
class AnthropicMessageStop(TypedDict):
    """The message is complete."""

    type: Literal["message_stop"]


@shape
class AnthropicErrorDetail(TypedDict):
    """What went wrong; ``param`` and ``code`` are ours."""

    type: str
    message: str
    param: str | None
    code: str | None
    details: NotRequired[dict[str, Any]]


@shape
class AnthropicError(TypedDict):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


@shape
class Counted(TypedDict):
    """How many tokens a request has."""

    input_tokens: Count


AnthropicEvent = Annotated[
    AnthropicMessageStart
    | AnthropicPing
    | AnthropicBlockStart
    | AnthropicBlockDelta
    | AnthropicBlockStop
    | AnthropicMessageDelta
    | AnthropicMessageStop
    | AnthropicError,
    Field(discriminator="type"),
]


@shape
class AnthropicModel(TypedDict):
    """A model as Anthropic's clients list it."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int


@shape
class AnthropicModelList(TypedDict):
    """The one model, in Anthropic's shape: for requests with the header anthropic-version."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str
    last_id: str
