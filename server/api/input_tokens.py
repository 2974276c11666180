"""POST /v1/chat/completions/input_tokens: how long a chat request is, without answering it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from server.api.answers.chat import InputTokens
from server.api.body import read_body
from server.api.chat import EXAMPLE
from server.api.chat_dialog import read_chat
from server.api.chat_schema import ChatRequest, parse_chat
from server.api.connection import while_connected
from server.api.dialog import prompt_of
from server.api.engine import require_ready
from server.api.openapi import operation
from server.api.services import Services
from server.messages import Counted


def input_tokens_router(services: Services) -> APIRouter:
    """The counting endpoint; its body is a chat completion's."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions/input_tokens",
        **operation(
            "Tokens of a chat completion's prompt",
            "chat",
            body=ChatRequest,
            answer=InputTokens,
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def input_tokens(request: Request) -> dict[str, Any]:
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_chat)

        async def work() -> dict[str, Any]:
            parts = await prompt_of(services, ready, read_chat(body))
            counted = await services.engine.count(parts)
            return input_tokens_of(counted)

        return await while_connected(request.receive, work())

    return router


def input_tokens_of(counted: Counted) -> dict[str, Any]:
    """The answer of those endpoints that count and do no more."""
    return {
        "object": "response.input_tokens",
        "input_tokens": counted.prompt_tokens,
        "text_tokens": counted.prompt_tokens - counted.image_tokens,
        "image_tokens": counted.image_tokens,
    }
