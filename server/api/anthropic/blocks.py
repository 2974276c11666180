"""Content blocks as Anthropic's clients write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.schema import Strict, Text
from server.api.tagged import Refused, by_type, text_or_list

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
    input: dict[str, Any]
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
