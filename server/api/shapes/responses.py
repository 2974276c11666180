"""OpenAI's Responses API: responses and their events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.shapes.base import Answer, ErrorDetail
from server.api.shapes.openai import Count
from server.api.shapes.pictures import PictureReport

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[dict[str, Any]]


class OutputMessage(Answer):
    """A message by the model."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class OutputCall(Answer):
    """A call by the model."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class OutputThoughtText(Answer):
    """A thought, or its summary, which is the same here."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class OutputReasoning(Answer):
    """What the model thought before it answered: as a summary where the client wants one."""

    type: Literal["reasoning"]
    id: str
    summary: list[OutputThoughtText]
    content: list[OutputThoughtText]
    status: ItemStatus


OutputItem = Annotated[OutputMessage | OutputReasoning | OutputCall, Field(discriminator="type")]


class InputDetails(Answer):
    """Of the input's tokens, those taken from the cache and those of pictures."""

    cached_tokens: Count
    cache_write_tokens: Count
    image_tokens: Count


class OutputDetails(Answer):
    """Of the output's tokens."""

    reasoning_tokens: Count


class ResponseUsage(Answer):
    """Tokens of input and output."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class IncompleteDetails(Answer):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseObject(Answer):
    """A response; from ``background`` on it repeats what was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    background: Literal[False]
    instructions: str | None
    max_output_tokens: Count | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: Count
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
    images: list[PictureReport] | None = None


class ResponseDeleted(Answer):
    """A response is forgotten."""

    id: str
    object: Literal["response"]
    deleted: bool


class ResponseItems(Answer):
    """A page of a response's input items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseWhole(Answer):
    """The response begins, goes on after a silence, or has ended."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    sequence_number: Count
    response: ResponseObject


class ResponseItemEvent(Answer):
    """An item begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: Count
    output_index: Count
    item: OutputItem


class _OfItem(Answer):
    sequence_number: Count
    output_index: Count
    item_id: str


class ResponsePartEvent(_OfItem):
    """A part of a message begins, or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: Count
    part: Annotated[OutputText | OutputThoughtText, Field(discriminator="type")]


class ResponseTextDelta(_OfItem):
    """More text."""

    type: Literal["response.output_text.delta"]
    content_index: Count
    delta: str
    logprobs: list[dict[str, Any]]


class ResponseTextDone(_OfItem):
    """The text is complete."""

    type: Literal["response.output_text.done"]
    content_index: Count
    text: str
    logprobs: list[dict[str, Any]]


class ResponseThoughtDelta(_OfItem):
    """More of a thought."""

    type: Literal["response.reasoning_text.delta"]
    content_index: Count
    delta: str


class ResponseThoughtDone(_OfItem):
    """The thought is complete."""

    type: Literal["response.reasoning_text.done"]
    content_index: Count
    text: str


class ResponseSummaryPart(_OfItem):
    """The summary of a thought begins, or is complete."""

    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    summary_index: Count
    part: OutputThoughtText


class ResponseSummaryDelta(_OfItem):
    """More of a thought's summary."""

    type: Literal["response.reasoning_summary_text.delta"]
    summary_index: Count
    delta: str


class ResponseSummaryDone(_OfItem):
    """The summary of a thought is complete."""

    type: Literal["response.reasoning_summary_text.done"]
    summary_index: Count
    text: str


class ResponseArgumentsDelta(_OfItem):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ResponseArgumentsDone(_OfItem):
    """A call's arguments are complete."""

    type: Literal["response.function_call_arguments.done"]
    arguments: str
    name: str


class ResponseErrorEvent(Answer):
    """An error in the middle of the stream; flat, and once more as other answers have it."""

    type: Literal["error"]
    sequence_number: Count
    message: str
    param: str | None
    code: str | None
    error: ErrorDetail


ResponseEvent = Annotated[
    ResponseWhole
    | ResponseItemEvent
    | ResponsePartEvent
    | ResponseTextDelta
    | ResponseTextDone
    | ResponseThoughtDelta
    | ResponseThoughtDone
    | ResponseSummaryPart
    | ResponseSummaryDelta
    | ResponseSummaryDone
    | ResponseArgumentsDelta
    | ResponseArgumentsDone
    | ResponseErrorEvent,
    Field(discriminator="type"),
]
