"""Anthropic's Messages API: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from server.api.anthropic.endpoints import anthropic_router
from server.api.anthropic.errors import AnthropicErrors

__all__ = ["AnthropicErrors", "anthropic_router"]
