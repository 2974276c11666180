"""OpenAI's Responses API: /v1/responses and what belongs to it."""

from __future__ import annotations

from server.api.responses.endpoints import responses_router

__all__ = ["responses_router"]
