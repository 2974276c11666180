"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, field_validator

from server.api.fields.messages import (
    ClientName,
    ContentPart,
    FilePart,
    ImagePart,
    Strict,
    Text,
    TextPart,
)
from server.api.fields.policy import apply_policy
from server.api.fields.sampling import WHOLE
from server.api.generate.pictures import PictureSource
from server.api.generate.services import ServedModel, Services
from server.api.http.body import read_body, validated, while_connected
from server.api.http.openapi import operation
from server.api.openai.completions_request import Mixed, PicturePrompt, mixed, with_pictures
from server.api.shapes.openai import EmbeddingList, VectorOfOne
from server.errors import RequestError
from server.fair_queue import in_turn
from server.messages import Embedded, ImageInput, LiteralText, Pooling, PromptPart

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


Inputs = Annotated[
    Annotated[OneInput, Tag("@one")]
    | Annotated[list[OneInput], Field(min_length=1, max_length=_MOST_INPUTS), Tag("@several")],
    Discriminator(_kind),
]


class EmbeddingRequest(Strict):
    """Inputs to be made vectors of, as OpenAI has it, and pictures.

    ``content`` is llama-server's name for ``input``, and asks for its shape of the answer.

    ``embd_normalize`` is llama-server's: -1 leaves vectors as they are, 0 divides by the largest
    absolute value, 1 by the sum of them, 2 by the length, p by the p-norm.
    """

    input: Inputs | None = None
    content: Inputs | None = None
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=2**20), WHOLE] | None = None
    embd_normalize: Annotated[int, Field(ge=-1, le=64), WHOLE] | None = None
    user: ClientName | None = None

    @property
    def inputs(self) -> list[tuple[Any, str]]:
        """Each input, and the field that holds it."""
        given, name = (self.content, "content") if self.input is None else (self.input, "input")
        if isinstance(given, list) and _kind(given) == "@several":
            return [(each, f"{name}[{number}]") for number, each in enumerate(given)]
        return [(given, name)]


def parse_embedding(body: dict[str, Any]) -> EmbeddingRequest:
    """Validate a body. Raises RequestError or UnsupportedParameter, naming the field."""
    apply_policy(body, "embeddings", EmbeddingRequest)
    request = validated(EmbeddingRequest, body)
    if request.input is None and request.content is None:
        raise RequestError(
            "input: Field required", param="input", code="missing_required_parameter"
        )
    if request.input is not None and request.content is not None:
        raise RequestError(
            "input and content are two names for one thing; give one of them",
            param="content",
            code="invalid_value",
        )
    return request


def check_dimensions(request: EmbeddingRequest, width: int) -> None:
    """Raise RequestError unless the vectors are as wide as they were asked for."""
    if request.dimensions not in (None, width):
        raise RequestError(
            f"dimensions: this model's vectors have {width}, and cannot be shortened",
            param="dimensions",
            code="unsupported_parameter",
        )


@dataclass(slots=True, frozen=True)
class Input:
    """What one vector is made of; ``param`` is the request's field that holds it."""

    parts: tuple[PromptPart, ...]
    param: str

    @property
    def pooling(self) -> Pooling:
        """Pictures alone: what the projector makes of them. All else: the hidden states."""
        pictures = all(isinstance(part, ImageInput) for part in self.parts)
        return Pooling.PROJECTOR if pictures else Pooling.HIDDEN


async def read_input(services: Services, model: ServedModel, value: object, param: str) -> Input:
    """One input. Raises RequestError, naming the field."""
    if isinstance(value, str):
        parts: Sequence[PromptPart] = (LiteralText(value),) if value else ()
    elif isinstance(value, list):
        parts = mixed(value, model.facts.model.n_vocab, param)
    elif isinstance(value, PicturePrompt):
        parts = (await with_pictures(services, model, value, param)).parts
    elif isinstance(value, PartsInput):
        parts = await _content(services, model, value.content, f"{param}.content")
    else:
        parts = await _content(services, model, [value], param, alone=True)
    if not parts:
        raise RequestError(f"{param}: the input is empty", param=param, code="invalid_value")
    return Input(tuple(parts), param)


async def _content(
    services: Services,
    model: ServedModel,
    content: Sequence[object],
    param: str,
    *,
    alone: bool = False,
) -> list[PromptPart]:
    sources = [
        PictureSource(
            part.source,
            f"{param}.{part.field}" if alone else f"{param}[{place}].{part.field}",
            part.detail if isinstance(part, ImagePart) else None,
        )
        for place, part in enumerate(content)
        if isinstance(part, ImagePart | FilePart)
    ]
    pictures = iter(await services.pictures.read(sources, model.facts.vision))
    parts: list[PromptPart] = []
    for part in content:
        if isinstance(part, ImagePart | FilePart):
            parts.append(next(pictures))
        elif isinstance(part, TextPart) and part.text:
            parts.append(LiteralText(part.text))
    return parts


# Of one request, in the engine at a time; the rest waits here, behind other requests.
_AT_ONCE = 8
_EMBEDDINGS = operation(
    "Vectors of texts and pictures",
    "embeddings",
    body=EmbeddingRequest,
    answer=EmbeddingList | list[VectorOfOne],
    engine=True,
    example={"input": ["a red circle", {"content": [{"type": "text", "text": "a square"}]}]},
)


def embeddings_router(services: Services) -> APIRouter:
    """The endpoint of vectors."""
    router = APIRouter()

    @router.post("/v1/embeddings", **_EMBEDDINGS)
    async def embeddings(request: Request) -> Response:
        services.models.check()
        body = await read_body(request, services.body_limits, parse_embedding)
        model = services.models[body.model]
        check_dimensions(body, model.facts.model.n_embd_out or model.facts.model.n_embd)
        vectors = await while_connected(request.receive, _embed_all(services, model, body))
        name = model.name
        return JSONResponse(await in_turn(partial(_reply, vectors, body, name)))

    return router


async def _embed_all(
    services: Services, model: ServedModel, body: EmbeddingRequest
) -> list[Embedded]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def embed(value: object, param: str) -> Embedded:
        async with slots:
            return await _embed(services, model, await read_input(services, model, value, param))

    tasks = [asyncio.ensure_future(embed(*each)) for each in body.inputs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _embed(services: Services, model: ServedModel, given: Input) -> Embedded:
    try:
        vector = await model.engine.embed(given.parts, given.pooling)
    except RequestError as exc:
        if exc.param == "messages":  # the engine's word for any prompt
            exc.param = given.param
        raise
    pictures = sum(isinstance(part, ImageInput) for part in given.parts)
    services.metrics.requests.admitted(vector.prompt_tokens, vector.image_tokens, pictures)
    return vector


def _reply(vectors: list[Embedded], body: EmbeddingRequest, model: str) -> Any:
    if body.content is not None:
        # llama-server's: a list, and each vector in a list of one.
        return [
            {"index": index, "embedding": [_vector(each, body)]}
            for index, each in enumerate(vectors)
        ]
    tokens = sum(each.prompt_tokens for each in vectors)
    images = sum(each.image_tokens for each in vectors)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(each, body)}
            for index, each in enumerate(vectors)
        ],
        "model": model,
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "prompt_tokens_details": {"image_tokens": images},
        },
    }


def _vector(embedded: Embedded, body: EmbeddingRequest) -> list[float] | str:
    norm = 2 if body.embd_normalize is None else body.embd_normalize
    vector = normalized(np.frombuffer(embedded.vector, np.float32), norm)
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]


def normalized(vector: NDArray[np.float32], norm: int) -> NDArray[np.float32]:
    """``vector`` divided by its ``norm``, as llama.cpp's common_embd_normalize numbers them.

    -1: not at all, 0: by the largest absolute value, p: by the p-norm. A zero vector stays.
    """
    if norm < 0:
        return vector
    wide = np.abs(vector.astype(np.float64))
    largest = float(wide.max(initial=0.0))
    if largest == 0.0:
        return vector
    # Of the scaled vector, so that no power overflows.
    size = largest if norm == 0 else largest * float(((wide / largest) ** norm).sum()) ** (1 / norm)
    return (vector / size).astype(np.float32)
