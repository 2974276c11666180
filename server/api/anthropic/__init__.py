"""Anthropic's Messages API: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from server.api.anthropic.endpoints import anthropic_router

__all__ = ["anthropic_router"]
