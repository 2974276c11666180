"""Content blocks as Anthropic's clients write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from server.api.fields.messages import (
    Arguments,
    Refused,
    Strict,
    Text,
    by_type,
    text_or_list,
    unsupported,
)

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
Pieces = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ImageBlock, Tag("@image")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_type(_PIECES)),
]


def as_text(text: str) -> TextBlock:
    """A text as a block."""
    return TextBlock.model_construct(type="text", text=text)


def as_blocks(content: str | list[Any]) -> list[Any]:
    """Content as blocks, whichever way it was written."""
    if isinstance(content, str):
        return [as_text(content)]
    return content


class TextSource(Strict):
    """A text document."""

    type: Literal["text"]
    data: Text


class ContentSource(Strict):
    """A document of blocks."""

    type: Literal["content"]
    content: Annotated[
        Annotated[Text, Tag("@string")] | Annotated[list[Pieces], Tag("@list")],
        text_or_list("blocks"),
    ]


class OtherSource(Strict):
    """A document in a file: refused."""

    type: str

    @field_validator("type")
    @classmethod
    def _refuse(cls, value: str) -> str:
        raise unsupported(
            f'documents with a source of type "{value[:64]}" are',
            "send the pages as image blocks, or the text in a source of type text",
        )


class DocumentBlock(Strict):
    """A document, of which the model reads texts and pictures."""

    type: Literal["document"]
    source: Annotated[
        Annotated[TextSource, Tag("@text")]
        | Annotated[ContentSource, Tag("@content")]
        | Annotated[OtherSource, Tag("@other")],
        Discriminator(by_type({"text": "@text", "content": "@content"})),
    ]
    title: Text | None = None
    context: Text | None = None

    @property
    def blocks(self) -> list[TextBlock | ImageBlock]:
        """What the model reads of it."""
        heads = [text for text in (self.title, self.context) if text]
        source = self.source
        if isinstance(source, TextSource):
            said: list[Any] = [as_text(source.data)]
        else:
            assert isinstance(source, ContentSource)
            said = as_blocks(source.content)
        return [*map(as_text, heads), *said]


class SearchResultBlock(Strict):
    """Something that was found, and where."""

    type: Literal["search_result"]
    source: Text
    title: Text
    content: list[TextBlock]

    @property
    def blocks(self) -> list[TextBlock]:
        """What the model reads of it."""
        return [as_text(f"{self.title} ({self.source})"), *self.content]


class ToolReferenceBlock(Strict):
    """A function that was found, and may be called from now on."""

    type: Literal["tool_reference"]
    tool_name: Name

    @property
    def blocks(self) -> list[TextBlock]:
        """What the model reads of it."""
        return [as_text(f"The tool {self.tool_name} is available now.")]


class CompactionBlock(Strict):
    """What was said before, in short."""

    type: Literal["compaction"]
    content: Text | None = None

    @property
    def blocks(self) -> list[TextBlock]:
        """What the model reads of it."""
        return [as_text(self.content)] if self.content else []


class ThinkingBlock(Strict):
    """What the model thought before it said what follows."""

    type: Literal["thinking"]
    thinking: Text
    signature: str | None = None


class LeftOutBlock(Strict):
    """What says nothing to the model: hidden thoughts, and the doings of other servers' tools."""

    type: str


_MORE = {
    "document": "@document",
    "search_result": "@search",
    "tool_reference": "@reference",
    "compaction": "@compaction",
}
_LEFT_OUT = (
    "redacted_thinking",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
)
Piece = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ImageBlock, Tag("@image")]
    | Annotated[DocumentBlock, Tag("@document")]
    | Annotated[SearchResultBlock, Tag("@search")]
    | Annotated[ToolReferenceBlock, Tag("@reference")]
    | Annotated[CompactionBlock, Tag("@compaction")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(by_type({**_PIECES, **_MORE})),
]


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
    def pieces(self) -> list[Any]:
        """The content as blocks, whichever way it was written."""
        return as_blocks(self.content or [])


Block = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ImageBlock, Tag("@image")]
    | Annotated[ToolUseBlock, Tag("@tool_use")]
    | Annotated[ToolResultBlock, Tag("@tool_result")]
    | Annotated[DocumentBlock, Tag("@document")]
    | Annotated[SearchResultBlock, Tag("@search")]
    | Annotated[ToolReferenceBlock, Tag("@reference")]
    | Annotated[CompactionBlock, Tag("@compaction")]
    | Annotated[ThinkingBlock, Tag("@thinking")]
    | Annotated[LeftOutBlock, Tag("@left_out")]
    | Annotated[Refused, Tag("@other")],
    Discriminator(
        by_type(
            {
                **_PIECES,
                **_MORE,
                **dict.fromkeys(_LEFT_OUT, "@left_out"),
                "thinking": "@thinking",
                "tool_use": "@tool_use",
                "tool_result": "@tool_result",
            }
        )
    ),
]
