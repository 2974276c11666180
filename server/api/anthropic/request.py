"""Content blocks as Anthropic's clients write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from server.api.fields.messages import (
    Arguments,
    Refused,
    Strict,
    Text,
    by_type,
    text_or_list,
)
from server.api.fields.sampling import Count, Ratio, StopText, Window
from server.api.fields.unsupported import refuse_fields
from server.api.http.errors import validation_error
from server.messages.sampling import SamplingParams

Id = Annotated[Text, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]


class CacheControl(Strict):
    """Asks for what happens anyway: every prompt's beginning is kept as long as there is room."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    """A piece of text."""

    type: Literal["text"]
    text: Text
    cache_control: CacheControl | None = None


class Base64Source(Strict):
    """A picture's file in base64."""

    type: Literal["base64"]
    media_type: Annotated[str, Field(pattern=r"^image/[a-z0-9.+-]{1,32}$")]
    data: str


class UrlSource(Strict):
    """A picture's URL."""

    type: Literal["url"]
    url: str


class FileSource(Strict):
    """A picture that was uploaded before."""

    type: Literal["file"]
    file_id: Annotated[str, Field(pattern=r"^file-[A-Za-z0-9_-]{1,100}$")]


Source = Annotated[
    Annotated[Base64Source, Tag("@base64")]
    | Annotated[UrlSource, Tag("@url")]
    | Annotated[FileSource, Tag("@file")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_type({"base64": "@base64", "url": "@url", "file": "@file"})),
]


class Transformations(Strict):
    """What becomes of a picture that is too large: it is made smaller."""

    oversized_image: Literal["downsize"] | None = None


class ImageBlock(Strict):
    """A picture, where it stands in the message."""

    type: Literal["image"]
    source: Source
    cache_control: CacheControl | None = None
    transformations: Transformations | None = None

    @property
    def url(self) -> str:
        """The picture as the rest of the house reads it: a URL or an upload's id."""
        source = self.source
        if isinstance(source, Base64Source):
            return f"data:{source.media_type};base64,{source.data}"
        if isinstance(source, UrlSource):
            return source.url
        assert isinstance(source, FileSource)
        return source.file_id

    @property
    def field(self) -> str:
        """The field that holds it."""
        return {"base64": "source.data", "url": "source.url"}.get(
            self.source.type, "source.file_id"
        )


class ToolUseBlock(Strict):
    """A call that the model made before."""

    type: Literal["tool_use"]
    id: Id
    name: Name
    input: Arguments = "{}"
    cache_control: CacheControl | None = None


_PIECES = {"text": "@text", "image": "@image"}
Piece = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ImageBlock, Tag("@image")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_type(_PIECES)),
]


def as_blocks(content: str | list[Any]) -> list[Any]:
    """Content as blocks, whichever way it was written."""
    if isinstance(content, str):
        return [TextBlock.model_construct(type="text", text=content)]
    return content


class ToolResultBlock(Strict):
    """What became of a call."""

    type: Literal["tool_result"]
    tool_use_id: Id
    content: (
        Annotated[
            Annotated[Text, Tag("@string")] | Annotated[list[Piece], Tag("@list")],
            text_or_list("blocks"),
        ]
        | None
    ) = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None

    @property
    def pieces(self) -> list[TextBlock | ImageBlock | Refused]:
        """The content as blocks, whichever way it was written."""
        return as_blocks(self.content or [])


Block = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ImageBlock, Tag("@image")]
    | Annotated[ToolUseBlock, Tag("@tool_use")]
    | Annotated[ToolResultBlock, Tag("@tool_result")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_type({**_PIECES, "tool_use": "@tool_use", "tool_result": "@tool_result"})),
]


# Field -> values that change nothing.
_REFUSED: dict[str, tuple[object, ...]] = {
    "billing_policy": (),
    "compaction": (),
    "container": (),
    "context_management": (),
    "diagnostics": (),
    "fallback_credit_token": (),
    "fallbacks": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "output_format": (),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "thread": (),
    "user_profile_id": (),
    "workspace_id": (),
}
_REFUSED_THINKING: dict[str, tuple[object, ...]] = {"type": ("disabled", "adaptive")}
_REFUSED_OUTPUT: dict[str, tuple[object, ...]] = {"effort": ()}
_REFUSED_TOOL: dict[str, tuple[object, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "eager_input_streaming": (True,),
    "input_examples": ([],),
}


class AnthropicInput(Strict):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[Text, Tag("@string")] | Annotated[list[Block], Tag("@list")],
        text_or_list("blocks"),
    ]


class CustomTool(Strict):
    """A function that the client runs."""

    type: Literal["custom"] | None = None
    name: Name
    description: Text | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None


Tool = Annotated[
    Annotated[CustomTool, Tag("@custom")] | Annotated[Refused, Tag("@other")],
    Discriminator(
        lambda value: (
            "@custom"
            if not isinstance(value, dict) or value.get("type") in (None, "custom")
            else "@other"
        )
    ),
]


class AutoChoice(Strict):
    """The model may call a function, must call one (any), or may not (none)."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool = False


class NamedChoice(Strict):
    """The model must call this function."""

    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool = False


ToolChoice = Annotated[
    Annotated[AutoChoice, Tag("@choice")] | Annotated[NamedChoice, Tag("@tool")],
    Discriminator(by_type({"tool": "@tool"}, "@choice")),
]


class JsonFormat(Strict):
    """The answer's text is JSON that fits the schema."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Strict):
    """What the answer must look like."""

    format: JsonFormat | None = None


class AnthropicMetadata(Strict):
    """Who asks; taken and not used."""

    user_id: str | None = None


class CountRequest(Strict):
    """What is counted: a request without what concerns its answer."""

    model: str
    messages: Annotated[list[AnthropicInput], Field(min_length=1, max_length=4096)]
    system: (
        Annotated[
            Annotated[Text, Tag("@string")] | Annotated[list[TextBlock], Tag("@list")],
            text_or_list("blocks"),
        ]
        | None
    ) = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class MessagesRequest(CountRequest):
    """A request of the Messages API, as far as it is served."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=16)] | None = None
    temperature: Ratio | None = None
    top_p: Ratio | None = None
    top_k: Window | None = None
    metadata: AnthropicMetadata | None = None

    def sampling(self) -> SamplingParams:
        """The sampling parameters, Anthropic's defaults filled in."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            stop=tuple(self.stop_sequences or ()),
        )


def parse_messages(body: dict[str, Any]) -> MessagesRequest:
    """Validate a request. Raises RequestError or UnsupportedParameter, naming the field."""
    _refuse(body)
    try:
        return MessagesRequest.model_validate(body)
    except ValidationError as exc:
        raise validation_error(exc.errors(include_url=False, include_input=False)) from exc


def parse_count(body: dict[str, Any]) -> CountRequest:
    """Validate a request for counting. Raises as ``parse_messages`` does."""
    _refuse(body)
    try:
        return CountRequest.model_validate(body)
    except ValidationError as exc:
        raise validation_error(exc.errors(include_url=False, include_input=False)) from exc


def _refuse(body: dict[str, Any]) -> None:
    refuse_fields(body, _REFUSED)
    refuse_fields(body.get("thinking"), _REFUSED_THINKING, "thinking.")
    refuse_fields(body.get("output_config"), _REFUSED_OUTPUT, "output_config.")
    tools = body.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        refuse_fields(tool, _REFUSED_TOOL, f"tools[{number}].")
