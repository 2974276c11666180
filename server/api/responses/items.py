"""Input items as clients of the Responses API write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from server.api.fields.messages import (
    Arguments,
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
    """A piece of text, by whomever."""

    type: Literal["input_text", "output_text"]
    text: Text


class InputImage(Strict):
    """A picture: a URL, or the id of an upload."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: Annotated[str, Field(pattern=r"^file-[A-Za-z0-9_-]{1,100}$")] | None = None
    detail: Literal["auto", "low", "high"] | None = None

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
        by_type({"input_text": "@text", "output_text": "@text", "input_image": "@image"})
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


def _kind(value: Any) -> str:
    # A message need not say that it is one.
    if isinstance(value, dict) and value.get("type") is None and "role" in value:
        return "@message"
    return _BY_TYPE(value)


_BY_TYPE = by_type(
    {"message": "@message", "function_call": "@call", "function_call_output": "@output"}
)
Item = Annotated[
    Annotated[InputMessage, Tag("@message")]
    | Annotated[FunctionCall, Tag("@call")]
    | Annotated[FunctionCallOutput, Tag("@output")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(_kind),
]


def parts_of(content: str | list[Any]) -> list[Any]:
    """Content as parts, whichever way it was written."""
    if isinstance(content, str):
        return [InputText.model_construct(type="input_text", text=content)]
    return content
