"""Anthropic's Messages API: messages, their events, and errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.shapes.base import Answer
from server.api.shapes.openai import Count
from server.api.shapes.pictures import PictureReport

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class AnthropicUsage(Answer):
    """Tokens; what the cache held is not among ``input_tokens``."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count


class AnthropicText(Answer):
    """A block of text."""

    type: Literal["text"]
    text: str


class AnthropicToolUse(Answer):
    """A call; ``input`` is empty where tokens ran out in the middle of it."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class AnthropicThinking(Answer):
    """What the model thought before it answered."""

    type: Literal["thinking"]
    thinking: str
    signature: str


AnthropicBlock = Annotated[
    AnthropicText | AnthropicThinking | AnthropicToolUse, Field(discriminator="type")
]


class AnthropicMessage(Answer):
    """A message in one piece. ``images`` only where there were pictures."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnthropicBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage
    images: list[PictureReport] | None = None


class AnthropicMessageStart(Answer):
    """The message begins, empty."""

    type: Literal["message_start"]
    message: AnthropicMessage


class AnthropicPing(Answer):
    """Nothing new."""

    type: Literal["ping"]


class AnthropicBlockStart(Answer):
    """A block begins."""

    type: Literal["content_block_start"]
    index: Count
    content_block: AnthropicBlock


class AnthropicTextDelta(Answer):
    """More text."""

    type: Literal["text_delta"]
    text: str


class AnthropicInputDelta(Answer):
    """More of a call's input."""

    type: Literal["input_json_delta"]
    partial_json: str


class AnthropicThinkingDelta(Answer):
    """More of a thought."""

    type: Literal["thinking_delta"]
    thinking: str


class AnthropicSignatureDelta(Answer):
    """A thought ends."""

    type: Literal["signature_delta"]
    signature: str


class AnthropicBlockDelta(Answer):
    """More of a block."""

    type: Literal["content_block_delta"]
    index: Count
    delta: Annotated[
        AnthropicTextDelta | AnthropicThinkingDelta | AnthropicSignatureDelta | AnthropicInputDelta,
        Field(discriminator="type"),
    ]


class AnthropicBlockStop(Answer):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: Count


class AnthropicStop(Answer):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class AnthropicMessageDelta(Answer):
    """Why the message ended, and its usage in full."""

    type: Literal["message_delta"]
    delta: AnthropicStop
    usage: AnthropicUsage
    images: list[PictureReport] | None = None


class AnthropicMessageStop(Answer):
    """The message is complete."""

    type: Literal["message_stop"]


class AnthropicErrorDetail(Answer):
    """What went wrong; ``param`` and ``code`` are ours."""

    type: str
    message: str
    param: str | None
    code: str | None
    details: dict[str, Any] | None = None


class AnthropicError(Answer):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


class Counted(Answer):
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


class AnthropicModel(Answer):
    """A model as Anthropic's clients list it."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int


class AnthropicModelList(Answer):
    """The one model, in Anthropic's shape: for requests with the header anthropic-version."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str
    last_id: str
