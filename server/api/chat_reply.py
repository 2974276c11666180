"""ChatReply: a chat completion on the wire, whole or in chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from server.api.generation import Generation
from server.api.streams import event
from server.api.timings import timings


@dataclass(slots=True, frozen=True)
class ChatReply:
    """Writes the answers to one request."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self,
        text: str,
        finish_reason: str,
        generation: Generation,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage(generation),
            **timings(generation),
            **images(generation),
        }

    def delta(
        self,
        delta: dict[str, str],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        """A chunk of a stream."""
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def usage_chunk(self, generation: Generation) -> bytes:
        """The chunk after the last choice, asked for by ``include_usage``."""
        head = self._head("chat.completion.chunk")
        last = {"usage": usage(generation), **timings(generation)}
        return event({**head, "choices": [], **last})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(generation: Generation) -> dict[str, Any]:
    """Tokens, with the pictures' share of the prompt."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": generation.cached_tokens,
            "image_tokens": generation.image_tokens,
        },
    }


def images(generation: Generation) -> dict[str, Any]:
    """What became of the request's pictures, in order; nothing when there were none."""
    if not generation.images:
        return {}
    return {"images": [report.json for report in generation.images]}
