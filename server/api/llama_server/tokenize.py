"""/tokenize, /detokenize and /apply-template, as llama-server has them."""

from __future__ import annotations

import asyncio
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from server.api.fields.messages import Strict, Text
from server.api.generate.dialog import rendered
from server.api.generate.events import compact
from server.api.generate.services import ServedModel, Services
from server.api.http.body import read_body, validated, while_connected
from server.api.http.openapi import operation
from server.api.openai.chat import EXAMPLE
from server.api.openai.chat_request import ChatRequest, parse_chat, read_chat
from server.api.shapes.operator import (
    Detokenized,
    Templated,
    TokenizedAnswer,
    TokenizerInfo,
    TokenPiece,
)
from server.errors import RequestError
from server.messages import LiteralText, Tokenized
from server.prompt import MARKER, Part, Placeholder

# As for prompts.
_MOST = 4 * 1024 * 1024
_MAX_ID = 2**31 - 1


class TokenizeBody(Strict):
    """A text, and whether BOS and EOS are put around it and special tokens in it count.

    llama-server's ``content`` or vLLM's ``prompt``, each with the names and defaults of its server.
    """

    content: Annotated[Text, Field(max_length=_MOST)] | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    prompt: Annotated[Text, Field(max_length=_MOST)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False
    model: str | None = None


def _parse_tokenize(body: dict[str, Any]) -> TokenizeBody:
    """Validate a body. Raises RequestError, naming the field."""
    request = validated(TokenizeBody, body)
    if request.content is None and request.prompt is None:
        raise RequestError(
            "content: Field required (or vLLM's prompt)",
            param="content",
            code="missing_required_parameter",
        )
    if request.content is not None and request.prompt is not None:
        raise RequestError(
            "prompt: give it or content, not both", param="prompt", code="invalid_value"
        )
    return request


class DetokenizeBody(Strict):
    """Tokens."""

    model: str | None = None
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
_TOKENIZER = operation(
    "The model's tokenizer, as vLLM describes it",
    "texts",
    answer=TokenizerInfo,
    engine=True,
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
        body = await read_body(request, services.body_limits, _parse_tokenize)
        model = services.models[body.model]
        found = await while_connected(request.receive, _tokenized(model, body))
        answer = _answer(model, body, found)
        return StreamingResponse(answer, media_type="application/json")

    @router.post("/detokenize", **_DETOKENIZE)
    async def detokenize(request: Request) -> Response:
        services.models.check()
        body = await read_body(request, services.body_limits, partial(validated, DetokenizeBody))
        model = services.models[body.model]
        work = model.engine.detokenize(tuple(body.tokens))
        found = await while_connected(request.receive, work)
        return StreamingResponse(_text_twice(found), media_type="application/json")

    @router.get("/tokenizer_info", **_TOKENIZER)
    async def tokenizer_info() -> TokenizerInfo:
        return _tokenizer(services.models.default)

    @router.post("/apply-template", **_TEMPLATE)
    async def apply_template(request: Request) -> Templated:
        services.models.check()
        body = await read_body(request, services.body_limits, parse_chat)
        model = services.models[body.model]
        work = rendered(services, model, read_chat(body))
        parts = await while_connected(request.receive, work)
        return {"prompt": "".join(map(_plain, parts))}

    return router


async def _tokenized(model: ServedModel, body: TokenizeBody) -> Tokenized:
    theirs = body.content is None
    return await model.engine.tokenize(
        (body.prompt if theirs else body.content) or "",
        add_special=body.add_special_tokens if theirs else body.add_special,
        parse_special=body.parse_special,
    )


def _tokenizer(served: ServedModel) -> TokenizerInfo:
    model = served.facts.model
    return {
        "tokenizer_class": "GGUF",
        "bos_token": model.bos_token,
        "eos_token": model.eos_token,
        "chat_template": model.chat_template,
        "vocab_size": model.n_vocab,
        "model_max_length": model.n_ctx_seq,
    }


# Tokens that are written in one go, in about a millisecond.
_AT_ONCE = 2048


async def _answer(model: ServedModel, body: TokenizeBody, found: Tokenized) -> AsyncIterator[bytes]:
    """The answer's JSON, a part at a time, so that a long one takes neither memory nor turns."""
    pieces = found.pieces.items()
    if body.content is not None:
        yield b'{"tokens":'
        async for part in _array(found, {t: _written(t, p, body.with_pieces) for t, p in pieces}):
            yield part
        yield b"}"
        return
    limit = model.facts.model.n_ctx_seq
    yield b'{"count":%d,"max_model_len":%d,"tokens":' % (len(found.ids), limit)
    async for part in _array(found, {token: b"%d" % token for token, _ in pieces}):
        yield part
    yield b',"token_strs":'
    if body.return_token_strs:
        texts = {token: compact(piece.decode("utf-8", "replace")) for token, piece in pieces}
        async for part in _array(found, {token: text.encode() for token, text in texts.items()}):
            yield part
        yield b"}"
    else:
        yield b"null}"


async def _text_twice(found: Tokenized) -> AsyncIterator[bytes]:
    """llama-server's name of the text and vLLM's, a part at a time."""
    yield b'{"content":"'
    async for part in _text(found):
        yield part
    yield b'","prompt":"'
    async for part in _text(found):
        yield part
    yield b'"}'


async def _text(found: Tokenized) -> AsyncIterator[bytes]:
    # A character may be of two parts' tokens.
    decoder = getincrementaldecoder("utf-8")("replace")
    for start in range(0, len(found.ids), _AT_ONCE):
        ids = found.ids[start : start + _AT_ONCE]
        text = decoder.decode(b"".join(map(found.pieces.__getitem__, ids)))
        yield compact(text)[1:-1].encode()
        await asyncio.sleep(0)
    yield compact(decoder.decode(b"", final=True))[1:-1].encode()


async def _array(found: Tokenized, written: Mapping[int, bytes]) -> AsyncIterator[bytes]:
    yield b"["
    for start in range(0, len(found.ids), _AT_ONCE):
        part = b",".join(map(written.__getitem__, found.ids[start : start + _AT_ONCE]))
        yield b"," + part if start else part
        await asyncio.sleep(0)
    yield b"]"


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
    if isinstance(part, Placeholder):
        return MARKER
    return part.text if isinstance(part, LiteralText) else part
