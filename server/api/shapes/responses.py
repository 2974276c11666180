"""OpenAI's Responses API: responses and their events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from server.api.shapes.base import ErrorDetail, shape
from server.api.shapes.openai import ChatLogprob, Count
from server.api.shapes.pictures import PictureReport

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]


@shape
class OutputText(TypedDict):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[ChatLogprob]


@shape
class OutputMessage(TypedDict):
    """A message by the model."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


@shape
class OutputCall(TypedDict):
    """A call by the model."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


@shape
class OutputThoughtText(TypedDict):
    """A thought, or its summary, which is the same here."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


@shape
class OutputReasoning(TypedDict):
    """What the model thought before it answered: as a summary where the client wants one."""

    type: Literal["reasoning"]
    id: str
    summary: list[OutputThoughtText]
    content: list[OutputThoughtText]
    status: ItemStatus


OutputItem = Annotated[OutputMessage | OutputReasoning | OutputCall, Field(discriminator="type")]


@shape
class InputDetails(TypedDict):
    """Of the input's tokens, those taken from the cache and those of pictures."""

    cached_tokens: Count
    cache_write_tokens: Count
    image_tokens: Count


@shape
class OutputDetails(TypedDict):
    """Of the output's tokens."""

    reasoning_tokens: Count


@shape
class ResponseUsage(TypedDict):
    """Tokens of input and output."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


@shape
class IncompleteDetails(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseAsked(TypedDict):
    """What was asked, with the defaults filled in."""

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


@shape
class ResponseObject(ResponseAsked):
    """A response, which repeats what was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    error: dict[str, Any] | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    images: NotRequired[list[PictureReport]]


@shape
class ResponseDeleted(TypedDict):
    """A response is forgotten."""

    id: str
    object: Literal["response"]
    deleted: bool


@shape
class ResponseItems(TypedDict):
    """A page of a response's input items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


@shape
class ResponseWhole(TypedDict):
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


@shape
class ResponseItemEvent(TypedDict):
    """An item begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: Count
    output_index: Count
    item: OutputItem


@shape
class _OfItem(TypedDict):
    sequence_number: Count
    output_index: Count
    item_id: str


@shape
class ResponsePartEvent(_OfItem):
    """A part of a message begins, or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: Count
    part: Annotated[OutputText | OutputThoughtText, Field(discriminator="type")]


@shape
class ResponseTextDelta(_OfItem):
    """More text."""

    type: Literal["response.output_text.delta"]
    content_index: Count
    delta: str
    logprobs: list[ChatLogprob]


@shape
class ResponseTextDone(_OfItem):
    """The text is complete."""

    type: Literal["response.output_text.done"]
    content_index: Count
    text: str
    logprobs: list[ChatLogprob]


@shape
class ResponseThoughtDelta(_OfItem):
    """More of a thought."""

    type: Literal["response.reasoning_text.delta"]
    content_index: Count
    delta: str


@shape
class ResponseThoughtDone(_OfItem):
    """The thought is complete."""

    type: Literal["response.reasoning_text.done"]
    content_index: Count
    text: str


@shape
class ResponseSummaryPart(_OfItem):
    """The summary of a thought begins, or is complete."""

    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    summary_index: Count
    part: OutputThoughtText


@shape
class ResponseSummaryDelta(_OfItem):
    """More of a thought's summary."""

    type: Literal["response.reasoning_summary_text.delta"]
    summary_index: Count
    delta: str


@shape
class ResponseSummaryDone(_OfItem):
    """The summary of a thought is complete."""

    type: Literal["response.reasoning_summary_text.done"]
    summary_index: Count
    text: str


@shape
class ResponseArgumentsDelta(_OfItem):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


@shape
class ResponseArgumentsDone(_OfItem):
    """A call's arguments are complete."""

    type: Literal["response.function_call_arguments.done"]
    arguments: str
    name: str


@shape
class ResponseErrorEvent(TypedDict):
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
