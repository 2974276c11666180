"""Chat messages as clients write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

_OTHER_PARTS = {
    "input_audio": "the model reads texts and pictures",
    "video_url": "send single frames as image_url",
    "input_text": 'use the type "text"',
    "input_image": 'use the type "image_url"',
    "image": 'use the type "image_url"',
}


def writable(text: str) -> str:
    """The text, if llama.cpp can read it; for validators."""
    # llama.cpp takes C strings: it would cut a text at its first NUL without a word.
    if "\0" in text:
        raise PydanticCustomError("nul_character", "Input should hold no NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "Input should hold no lone surrogates") from None
    return text


Text = Annotated[str, AfterValidator(writable)]


def _arguments(value: object) -> object:
    # Many clients and OpenAI itself write "" or null for a call without arguments.
    if value is None or (isinstance(value, str) and value.strip() in ("", "null")):
        return "{}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


# Arguments of a call that was made before. A text that is no JSON object, such as that of a call
# which max_tokens cut, is shown to the model as it is.
Arguments = Annotated[str, BeforeValidator(_arguments), AfterValidator(writable)]
# "original" is OpenAI's newest word; here no picture is larger than with "high".
PictureDetail = Annotated[
    Literal["auto", "low", "high"],
    BeforeValidator(lambda value: "high" if value == "original" else value),
]
# Who asks: nothing depends on it, so any form will do.
ClientName = Any
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[Text, Field(min_length=1, max_length=200)]


class Strict(BaseModel):
    """No coercion ("1" is no number); unknown fields are ignored, as elsewhere."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def unsupported(what: str, instead: str) -> PydanticCustomError:
    """An error that becomes UnsupportedParameter; ``instead``: what to do."""
    return PydanticCustomError(
        "unsupported_parameter", "{what} not supported: {do}", {"what": what, "do": instead}
    )


class ImageUrl(Strict):
    """Where a picture is: a data: URL, or an http(s) URL where that is allowed."""

    url: str
    detail: PictureDetail | None = None


class TextPart(Strict):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class ImagePart(Strict):
    """A picture, where it stands in the conversation."""

    type: Literal["image_url"]
    image_url: Annotated[
        Annotated[str, Tag("@string")] | Annotated[ImageUrl, Tag("@object")],
        Discriminator(lambda value: "@string" if isinstance(value, str) else "@object"),
    ]

    @property
    def source(self) -> str:
        """The URL as the client wrote it."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url

    @property
    def field(self) -> str:
        """The field that holds the URL."""
        return "image_url" if isinstance(self.image_url, str) else "image_url.url"

    @property
    def detail(self) -> Literal["auto", "low", "high"] | None:
        """How much of it is to be seen, where the client says so."""
        return None if isinstance(self.image_url, str) else self.image_url.detail


class UploadedFile(Strict):
    """A file that was uploaded before, by its id."""

    file_id: Annotated[str, Field(pattern=r"^file-[A-Za-z0-9_-]{1,100}$")]

    @model_validator(mode="before")
    @classmethod
    def _no_data(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("file_data") is not None:
            raise unsupported('"file_data" is', "send pictures as image_url, texts as text")
        return value


class FilePart(Strict):
    """An uploaded picture, where it stands in the conversation."""

    type: Literal["file"]
    file: UploadedFile

    @property
    def source(self) -> str:
        """The file's id."""
        return self.file.file_id

    @property
    def field(self) -> str:
        """The field that holds the id."""
        return "file.file_id"


class RefusalPart(Strict):
    """What the model said when it declined; text to the next one."""

    type: Literal["refusal"]
    refusal: Text


class ThoughtPart(Strict):
    """What the model thought before an earlier answer: left out."""

    type: Literal["thinking", "reasoning"]


class OtherPart(Strict):
    """A part of any other type: refused."""

    type: Literal["text", "image_url", "file"]

    @field_validator("type", mode="before")
    @classmethod
    def _not_yet(cls, value: object) -> object:
        if isinstance(value, str) and value in _OTHER_PARTS:
            raise unsupported(f'parts of type "{value}" are', _OTHER_PARTS[value])
        return value


def _kind_of_part(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return _PARTS.get(kind if isinstance(kind, str) else "", "@other")


_PARTS = {
    "text": "@text",
    "image_url": "@image",
    "file": "@file",
    "refusal": "@refusal",
    "thinking": "@thought",
    "reasoning": "@thought",
}


ContentPart = Annotated[
    Annotated[TextPart, Tag("@text")]
    | Annotated[ImagePart, Tag("@image")]
    | Annotated[FilePart, Tag("@file")]
    | Annotated[RefusalPart, Tag("@refusal")]
    | Annotated[ThoughtPart, Tag("@thought")]
    | SkipJsonSchema[Annotated[OtherPart, Tag("@other")]],
    Discriminator(_kind_of_part),
]


def _kind_of_content(value: Any) -> str | None:
    if isinstance(value, str):
        return "@string"
    return "@parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[Text, Tag("@string")] | Annotated[list[ContentPart], Tag("@parts")],
    Discriminator(
        _kind_of_content,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of parts",
    ),
]


class CalledFunction(Strict):
    """What the model called; ``arguments`` should be the text of a JSON object."""

    name: FunctionName
    arguments: Arguments = "{}"


class MessageCall(Strict):
    """A call that the model made before."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _custom(cls, value: object) -> object:
        """A call with free text is one of a function with the parameter ``input``."""
        if not isinstance(value, dict) or value.get("type") != "custom":
            return value
        called = value.get("custom")
        if not isinstance(called, dict):
            return value
        arguments = json.dumps({"input": called.get("input")})
        function = {"name": called.get("name"), "arguments": arguments}
        return {"id": value.get("id"), "type": "function", "function": function}


def _text_alone(value: object) -> object:
    """Some clients send objects under the same name, which say nothing to the model."""
    return value if isinstance(value, str) else None


class ChatMessage(Strict):
    """One message of a conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: Annotated[list[MessageCall], Field(max_length=128)] | None = None
    tool_call_id: CallId | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    reasoning: Annotated[Text | None, BeforeValidator(_text_alone)] = None
    thinking: Annotated[Text | None, BeforeValidator(_text_alone)] = None

    @property
    def thought(self) -> str:
        """What the assistant thought before it said this, by any of the names for it."""
        return self.reasoning_content or self.reasoning or self.thinking or ""

    @field_validator("role", mode="before")
    @classmethod
    def _no_function(cls, value: object) -> object:
        if value == "function":
            raise unsupported('the role "function" is', 'use the role "tool", and tool_calls')
        return value

    @property
    def pieces(self) -> list[Any]:
        """The content as parts, whichever way it was written."""
        said = self.refusal if self.content is None else self.content
        if isinstance(said, str):
            return [TextPart.model_construct(type="text", text=said)]
        return said or []


def by_type(tags: Mapping[str, str], other: str = "@other") -> Callable[[Any], str]:
    """A pydantic discriminator: the tag for a value's ``type``, ``other`` for any that is new."""

    def tag(value: Any) -> str:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return tags.get(kind, other) if isinstance(kind, str) else other

    return tag


def by_mode_or_type(tags: Mapping[str, str]) -> Callable[[Any], str]:
    """The same for what may be a word too, which is tagged "@mode"."""
    tag = by_type(tags)
    return lambda value: "@mode" if isinstance(value, str) else tag(value)


def by_form(value: Any) -> str | None:
    """A pydantic discriminator for what is either a text or a list: "@string" or "@list"."""
    if isinstance(value, str):
        return "@string"
    return "@list" if isinstance(value, list) else None


def text_or_list(what: str) -> Discriminator:
    """The discriminator with its message; ``what`` are the list's items."""
    return Discriminator(
        by_form,
        custom_error_type="content_type",
        custom_error_message=f"Input should be a string or a list of {what}",
    )


class Refused(Strict):
    """A member of any other type: refused by name."""

    type: str

    @field_validator("type")
    @classmethod
    def _refuse(cls, value: str) -> str:
        instead = _INSTEAD.get(value, "texts, pictures and functions are")
        raise unsupported(f'the type "{value[:64]}" is', instead)


_INSTEAD = {
    "input_file": "send pictures as input_image, texts as input_text",
    "input_audio": "the model reads texts and pictures",
    "container_upload": "send pictures as image, texts as text",
    "document": "send its pages as pictures, or its text",
}


class OtherTool(Strict):
    """A tool that is no function. It is an offer, which the model can do without: left out."""

    type: str
