"""The body of POST /v1/responses, and of /v1/responses/input_tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import (
    ClientName,
    OtherTool,
    Refused,
    Strict,
    Text,
    by_mode_or_type,
    by_type,
    text_or_list,
)
from server.api.fields.policy import apply_policy, note_ignored
from server.api.fields.reasoning import ReasoningFields
from server.api.fields.sampling import WHOLE, SamplingFields, StreamOptions, TokenLimit, check_names
from server.api.http.body import validated
from server.api.openai.chat_request import report_others
from server.api.responses.items import Item, Name
from server.errors import RequestError
from server.messages.sampling import SamplingParams
from server.tools import Tool, Toolbox
from server.tools.tool import make_toolbox


class FunctionTool(Strict):
    """A function that the client runs."""

    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


FunctionTools = Annotated[
    list[
        Annotated[
            Annotated[FunctionTool, Tag("@function")] | Annotated[OtherTool, Tag("@other")],
            Discriminator(by_type({"function": "@function"})),
        ]
    ],
    Field(max_length=128),
]


class NamedFunction(Strict):
    """One function by its name."""

    type: Literal["function"]
    name: Name


class AllowedTools(Strict):
    """A choice among some of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, max_length=128)]


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("@mode")]
    | Annotated[NamedFunction, Tag("@function")]
    | Annotated[AllowedTools, Tag("@allowed")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_mode_or_type({"function": "@function", "allowed_tools": "@allowed"})),
]


def read_toolbox(tools: list[Any] | None, choice: Any, parallel_tool_calls: bool | None) -> Toolbox:
    """The functions and the choice among them. Raises RequestError, naming the field."""
    report_others(tools or ())
    found = [
        Tool(
            tool.name,
            tool.description,
            tool.parameters or {"type": "object", "properties": {}},
            f"tools[{number}].parameters",
            strict=bool(tool.strict),
        )
        for number, tool in enumerate(tools or ())
        if isinstance(tool, FunctionTool)
    ]
    parallel = parallel_tool_calls is not False
    if isinstance(choice, NamedFunction):
        names = {choice.name: "tool_choice.name"}
        return make_toolbox(found, "required", names=names, parallel=parallel)
    if isinstance(choice, AllowedTools):
        names = {t.name: f"tool_choice.tools[{n}].name" for n, t in enumerate(choice.tools)}
        return make_toolbox(found, choice.mode, names=names, parallel=parallel)
    return make_toolbox(found, choice or "auto", parallel=parallel)


LOGPROBS = "message.output_text.logprobs"

Body = TypeVar("Body", bound="InputRequest")
Label = Annotated[str, Field(max_length=512)]


class TextFormat(Strict):
    """What the answer's text must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> TextFormat:
        if self.type == "json_schema" and (self.schema_ is None or self.name is None):
            raise PydanticCustomError("no_schema", "name and schema are required")
        return self

    @property
    def schema_and_field(self) -> tuple[Any, str] | None:
        """The schema, and the field that holds it; None for plain text."""
        if self.type == "text":
            return None
        return self.schema_, "text.format.schema" if self.schema_ else "text.format"

    @property
    def is_strict(self) -> bool:
        """Whether a schema that cannot be enforced in all its words is refused."""
        return bool(self.strict)


class TextConfig(Strict):
    """How the text is to be."""

    format: TextFormat | None = None


class InputRequest(ReasoningFields):
    """What goes in: what is counted."""

    model: str | None = None
    input: (
        Annotated[
            Annotated[Text, Tag("@string")]
            | Annotated[list[Item], Field(max_length=4096), Tag("@list")],
            text_or_list("items"),
        ]
        | None
    ) = None
    instructions: Text | None = None
    previous_response_id: Annotated[str, Field(max_length=200)] | None = None
    tools: FunctionTools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None


class ResponsesRequest(InputRequest, SamplingFields):
    """A request of the Responses API, as far as it is served."""

    include: list[str] | None = None
    max_output_tokens: TokenLimit | None = None
    metadata: Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=16)] | (
        None
    ) = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    user: ClientName | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _as_texts(cls, value: object) -> object:
        """Values as the texts that OpenAI's clients read back; null is none."""
        if not isinstance(value, dict):
            return value
        given = {key: each for key, each in value.items() if each is not None}
        return {key: v if isinstance(v, str) else json.dumps(v) for key, v in given.items()}

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer, by any of the names for it."""
        limit = super().token_limit
        return self.max_output_tokens if limit is None else limit

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer has its tokens' log-probabilities."""
        return LOGPROBS in (self.include or ())

    def sampling(self) -> SamplingParams:
        """The sampling parameters, with the log-probabilities asked for."""
        count = self.top_logprobs or 0 if self.with_logprobs else None
        return replace(super().sampling(), logprobs=count)


def parse_response(body: dict[str, Any]) -> ResponsesRequest:
    """Validate a request. Raises RequestError or UnsupportedParameter, naming the field."""
    request = _parse(ResponsesRequest, body)
    check_names(request, "max_output_tokens")
    for name in request.include or ():
        if name != LOGPROBS:
            note_ignored(f"include.{name}", "a response never has it")
    if request.top_logprobs and not request.with_logprobs:
        raise RequestError(
            f"top_logprobs is only allowed when include has {LOGPROBS}",
            param="top_logprobs",
            code="invalid_value",
        )
    return request


def parse_input(body: dict[str, Any]) -> InputRequest:
    """Validate a request for counting. Raises as ``parse_response`` does."""
    return _parse(InputRequest, body)


def _parse(kind: type[Body], body: dict[str, Any]) -> Body:
    apply_policy(body, "responses", ResponsesRequest)
    request = validated(kind, body)
    if not request.input and request.previous_response_id is None:
        raise RequestError("input is required", param="input", code="missing_required_parameter")
    return request
