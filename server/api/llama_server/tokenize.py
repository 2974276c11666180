"""/tokenize, /detokenize and /apply-template, as llama-server has them."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from server.api.fields.messages import Strict, Text
from server.api.generate.dialog import rendered
from server.api.generate.services import Services
from server.api.http.body import read_body, validated
from server.api.http.connection import while_connected
from server.api.http.openapi import operation
from server.api.openai.chat import EXAMPLE
from server.api.openai.chat_request import ChatRequest, parse_chat, read_chat
from server.api.shapes.operator import Detokenized, Templated, TokenizedAnswer, TokenPiece
from server.messages import LiteralText, Tokenized
from server.prompt import MARKER, Part, Picture

# As for prompts.
_MOST = 4 * 1024 * 1024
_MAX_ID = 2**31 - 1


class TokenizeBody(Strict):
    """A text, and whether BOS and EOS are put around it and special tokens in it count."""

    content: Annotated[Text, Field(max_length=_MOST)]
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(Strict):
    """Tokens."""

    tokens: Annotated[list[Annotated[int, Field(ge=0, le=_MAX_ID)]], Field(max_length=_MOST)]


_TOKENIZE = operation(
    "Tokens of a text",
    "texts",
    body=TokenizeBody,
    answer=TokenizedAnswer,
    engine=True,
    example={"content": "Hello", "with_pieces": True},
)
_DETOKENIZE = operation(
    "Text of tokens",
    "texts",
    body=DetokenizeBody,
    answer=Detokenized,
    engine=True,
    example={"tokens": [1, 2, 3]},
)
_TEMPLATE = operation(
    "A chat request's prompt",
    "texts",
    body=ChatRequest,
    answer=Templated,
    engine=True,
    example=EXAMPLE,
)


def texts_router(services: Services) -> APIRouter:
    """The endpoints. The work is done in the engine process, in a thread of its own."""
    router = APIRouter()

    @router.post("/tokenize", **_TOKENIZE)
    async def tokenize(request: Request) -> TokenizedAnswer:
        services.models.check()
        body = await read_body(request, services.body_limits, partial(validated, TokenizeBody))
        model = services.models.default
        work = model.engine.tokenize(
            body.content, add_special=body.add_special, parse_special=body.parse_special
        )
        return _tokens(await while_connected(request.receive, work), body.with_pieces)

    @router.post("/detokenize", **_DETOKENIZE)
    async def detokenize(request: Request) -> Detokenized:
        services.models.check()
        body = await read_body(request, services.body_limits, partial(validated, DetokenizeBody))
        model = services.models.default
        work = model.engine.detokenize(tuple(body.tokens))
        found = await while_connected(request.receive, work)
        return {"content": b"".join(found.pieces).decode("utf-8", "replace")}

    @router.post("/apply-template", **_TEMPLATE)
    async def apply_template(request: Request) -> Templated:
        services.models.check()
        body = await read_body(request, services.body_limits, parse_chat)
        model = services.models[body.model]
        work = rendered(services, model, read_chat(body))
        parts = await while_connected(request.receive, work)
        return {"prompt": "".join(map(_plain, parts))}

    return router


def _tokens(found: Tokenized, with_pieces: bool) -> TokenizedAnswer:
    if not with_pieces:
        return {"tokens": list(found.tokens)}
    pairs = zip(found.tokens, found.pieces, strict=True)
    pieces: list[TokenPiece] = [{"id": token, "piece": _piece(piece)} for token, piece in pairs]
    return {"tokens": pieces}


def _piece(piece: bytes) -> str | list[int]:
    """Text, or its bytes where a token holds a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _plain(part: Part) -> str:
    if isinstance(part, Picture):
        return MARKER
    return part.text if isinstance(part, LiteralText) else part
