"""/tokenize, /detokenize and /apply-template, as llama-server has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from server.api.fields.messages import Strict, Text
from server.api.generate.dialog import rendered
from server.api.generate.events import compact
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
    async def tokenize(request: Request) -> Response:
        services.models.check()
        body = await read_body(request, services.body_limits, partial(validated, TokenizeBody))
        model = services.models.default
        work = model.engine.tokenize(
            body.content, add_special=body.add_special, parse_special=body.parse_special
        )
        found = await while_connected(request.receive, work)
        return StreamingResponse(_tokens(found, body.with_pieces), media_type="application/json")

    @router.post("/detokenize", **_DETOKENIZE)
    async def detokenize(request: Request) -> Detokenized:
        services.models.check()
        body = await read_body(request, services.body_limits, partial(validated, DetokenizeBody))
        model = services.models.default
        work = model.engine.detokenize(tuple(body.tokens))
        found = await while_connected(request.receive, work)
        return {"content": found.text.decode("utf-8", "replace")}

    @router.post("/apply-template", **_TEMPLATE)
    async def apply_template(request: Request) -> Templated:
        services.models.check()
        body = await read_body(request, services.body_limits, parse_chat)
        model = services.models[body.model]
        work = rendered(services, model, read_chat(body))
        parts = await while_connected(request.receive, work)
        return {"prompt": "".join(map(_plain, parts))}

    return router


# Tokens that are written in one go, in about a millisecond.
_AT_ONCE = 8192


async def _tokens(found: Tokenized, with_pieces: bool) -> AsyncIterator[bytes]:
    """The answer's JSON, a part at a time, so that a long one takes neither memory nor turns."""
    written = {token: _written(token, piece, with_pieces) for token, piece in found.pieces.items()}
    ids = found.ids
    yield b'{"tokens":['
    for start in range(0, len(ids), _AT_ONCE):
        part = b",".join(map(written.__getitem__, ids[start : start + _AT_ONCE]))
        yield b"," + part if start else part
        await asyncio.sleep(0)
    yield b"]}"


def _written(token: int, piece: bytes, with_pieces: bool) -> bytes:
    if not with_pieces:
        return b"%d" % token
    shown: TokenPiece = {"id": token, "piece": _piece(piece)}
    return compact(shown).encode()


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
