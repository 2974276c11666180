"""The body of POST /v1/embeddings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from server.api.body import validator
from server.api.completions.schema import Mixed, PicturePrompt
from server.api.schema import ContentPart, Strict, Text
from server.errors import RequestError

_MOST_INPUTS = 2048


class PartsInput(Strict):
    """One input made of texts and pictures, as in a message; texts are joined as they are."""

    content: Annotated[list[ContentPart], Field(min_length=1, max_length=10_000)]

    @field_validator("content", mode="before")
    @classmethod
    def _text_is_one_part(cls, value: object) -> object:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _kind_of_one(value: Any) -> str | None:
    if isinstance(value, str | list):
        return "@text" if isinstance(value, str) else "@tokens"
    if not isinstance(value, dict):
        return None
    if "type" in value:
        return "@part"
    return "@pictures" if "prompt_string" in value else "@parts"


OneInput = Annotated[
    Annotated[Text, Tag("@text")]
    | Annotated[Mixed, Tag("@tokens")]
    | Annotated[PicturePrompt, Tag("@pictures")]
    | Annotated[PartsInput, Tag("@parts")]
    | Annotated[ContentPart, Tag("@part")],
    Discriminator(
        _kind_of_one,
        custom_error_type="input_type",
        custom_error_message="Input should be a string, token ids or an object with content",
    ),
]


def _kind(value: Any) -> str:
    several = isinstance(value, list) and not any(type(item) is int for item in value)
    return "@several" if several else "@one"


class EmbeddingRequest(Strict):
    """Inputs to be made vectors of, as OpenAI has it, and pictures.

    ``embd_normalize`` is llama-server's: -1 leaves vectors as they are, 0 divides by the largest
    absolute value, 1 by the sum of them, 2 by the length, p by the p-norm.
    """

    input: Annotated[
        Annotated[OneInput, Tag("@one")]
        | Annotated[list[OneInput], Field(min_length=1, max_length=_MOST_INPUTS), Tag("@several")],
        Discriminator(_kind),
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=2**20)] | None = None
    embd_normalize: Annotated[int, Field(ge=-1, le=64)] | None = None
    user: str | None = None

    @property
    def inputs(self) -> list[tuple[Any, str]]:
        """Each input, and the field that holds it."""
        if _kind(self.input) == "@several":
            assert isinstance(self.input, list)
            return [(each, f"input[{number}]") for number, each in enumerate(self.input)]
        return [(self.input, "input")]


parse_embedding = validator(EmbeddingRequest)


def check_dimensions(request: EmbeddingRequest, width: int) -> None:
    """Raise RequestError unless the vectors are as wide as they were asked for."""
    if request.dimensions not in (None, width):
        raise RequestError(
            f"dimensions: this model's vectors have {width}, and cannot be shortened",
            param="dimensions",
            code="unsupported_parameter",
        )
