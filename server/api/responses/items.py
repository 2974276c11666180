"""Input items as clients of the Responses API write them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import (
    Arguments,
    PictureDetail,
    Refused,
    Strict,
    Text,
    by_type,
    text_or_list,
)

Id = Annotated[Text, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    """A piece of text, the client's or the model's."""

    type: Literal["input_text", "output_text", "text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _refusal(cls, value: object) -> object:
        """What the model said when it declined is text to the next one."""
        if isinstance(value, dict) and value.get("type") == "refusal":
            return {"type": "output_text", "text": value.get("refusal")}
        return value


class InputImage(Strict):
    """A picture: a URL, or the id of an upload."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: Annotated[str, Field(pattern=r"^file-[A-Za-z0-9_-]{1,100}$")] | None = None
    detail: PictureDetail | None = None

    @model_validator(mode="after")
    def _one_source(self) -> InputImage:
        if (self.image_url is None) == (self.file_id is None):
            raise PydanticCustomError("one_source", "Input should have image_url or file_id")
        return self

    @property
    def source(self) -> str:
        """The URL, or the upload's id."""
        return self.image_url if self.image_url is not None else self.file_id or ""

    @property
    def field(self) -> str:
        """The field that holds it."""
        return "image_url" if self.image_url is not None else "file_id"


Part = Annotated[
    Annotated[InputText, Tag("@text")]
    | Annotated[InputImage, Tag("@image")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(
        by_type(
            {
                **dict.fromkeys(("input_text", "output_text", "text", "refusal"), "@text"),
                "input_image": "@image",
            }
        )
    ),
]
Content = Annotated[
    Annotated[Text, Tag("@string")] | Annotated[list[Part], Tag("@list")],
    text_or_list("parts"),
]


class InputMessage(Strict):
    """A message; one of the assistant's is an answer from before."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: Status | None = None


class FunctionCall(Strict):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: Id
    name: Name
    arguments: Arguments = "{}"
    id: str | None = None
    status: Status | None = None


class FunctionCallOutput(Strict):
    """What became of a call."""

    type: Literal["function_call_output"]
    call_id: Id
    output: Content
    id: str | None = None
    status: Status | None = None


class OtherCall(Strict):
    """A call of a tool that is no function here: a custom one, a shell, a patch. It is read as a
    function's; the model sees what was done. Without a call's id it is left out.
    """

    type: str
    call_id: Id | None = None
    name: Name | None = None
    input: Any = None
    action: Any = None
    operation: Any = None
    id: str | None = None

    @property
    def function(self) -> str:
        """What was called."""
        return self.name or self.type.removesuffix("_call")

    @property
    def arguments(self) -> str:
        """The text of a JSON object."""
        for given in (self.action, self.operation):
            if isinstance(given, dict):
                return json.dumps(given)
        return json.dumps({"input": self.input})


class OtherOutput(Strict):
    """What became of such a call."""

    type: str
    call_id: Id | None = None
    output: Any = None
    id: str | None = None

    @property
    def content(self) -> Any:
        """As a function's result: a text, or the parts that it has."""
        if isinstance(self.output, list) and all(map(_is_part, self.output)):
            return _PARTS.validate_python(self.output)
        return self.output if isinstance(self.output, str) else json.dumps(self.output)


class ItemReference(Strict):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: Id


class ThoughtText(Strict):
    """A piece of a thought, or of its summary."""

    type: str
    text: Text = ""


class Reasoning(Strict):
    """What the model thought before the item that comes next."""

    type: Literal["reasoning"]
    summary: list[ThoughtText] | None = None
    content: list[ThoughtText] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: Status | None = None

    @property
    def thought(self) -> str:
        """The thought, or what is known of it."""
        return "\n".join(part.text for part in self.content or self.summary or ())


class LeftOut(Strict):
    """An item that says nothing to the model: searches of other servers' tools, and what
    only its own server can read.
    """

    type: str
    id: str | None = None


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") in ("input_text", "input_image")


_PARTS: TypeAdapter[list[Any]] = TypeAdapter(list[Annotated[Part, "a part"]])


def _kind(value: Any) -> str:
    # A message need not say that it is one.
    if isinstance(value, dict) and value.get("type") is None and "role" in value:
        return "@message"
    return _BY_TYPE(value)


_CALLS = ("custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call")
_LEFT_OUT = (
    "compaction",
    "compaction_summary",
    "compaction_trigger",
    "web_search_call",
    "file_search_call",
    "image_generation_call",
    "code_interpreter_call",
    "tool_search_call",
    "tool_search_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
)
_BY_TYPE = by_type(
    {
        "message": "@message",
        "function_call": "@call",
        "function_call_output": "@output",
        "item_reference": "@reference",
        "reasoning": "@reasoning",
        **dict.fromkeys(_CALLS, "@other_call"),
        **{f"{name}_output": "@other_output" for name in _CALLS},
        **dict.fromkeys(_LEFT_OUT, "@left_out"),
    }
)
Item = Annotated[
    Annotated[InputMessage, Tag("@message")]
    | Annotated[FunctionCall, Tag("@call")]
    | Annotated[FunctionCallOutput, Tag("@output")]
    | Annotated[ItemReference, Tag("@reference")]
    | Annotated[Reasoning, Tag("@reasoning")]
    | Annotated[OtherCall, Tag("@other_call")]
    | Annotated[OtherOutput, Tag("@other_output")]
    | Annotated[LeftOut, Tag("@left_out")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(_kind),
]


def parts_of(content: str | list[Any]) -> list[Any]:
    """Content as parts, whichever way it was written."""
    if isinstance(content, str):
        return [InputText.model_construct(type="input_text", text=content)]
    return content
