"""ChatReply: a chat completion on the wire, whole or in chunks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from server.api.generation import Tally
from server.api.streams import compact, event
from server.api.timings import timings


@dataclass(slots=True, frozen=True)
class ChatReply:
    """Writes the answers to one request."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    _front: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Writes down once what all chunks of the stream begin with."""
        head = compact(self._head("chat.completion.chunk"))
        object.__setattr__(self, "_front", f'data: {head[:-1]},"choices":[{{"index":')

    def choice(
        self,
        index: int,
        message: dict[str, Any],
        finish_reason: str,
        logprobs: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """One choice in one piece."""
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def whole(self, choices: list[dict[str, Any]], tally: Tally) -> dict[str, Any]:
        """The answer in one piece."""
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": usage(tally),
            **timings(tally),
            **images(tally),
        }

    def delta(
        self,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        index: int = 0,
        **more: Any,
    ) -> bytes:
        """A chunk of a stream."""
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def text(self, text: str, index: int = 0) -> bytes:
        """A chunk of plain text: what ``delta`` gives for it, in a tenth of the time."""
        told = json.dumps(text)
        end = ',"logprobs":null,"finish_reason":null}]}\n\n'
        return f'{self._front}{index},"delta":{{"content":{told}}}{end}'.encode("ascii")

    def usage_chunk(self, tally: Tally) -> bytes:
        """The chunk after the last choice, asked for by ``include_usage``."""
        head = self._head("chat.completion.chunk")
        last = {"usage": usage(tally), **timings(tally)}
        return event({**head, "choices": [], **last})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(tally: Tally) -> dict[str, Any]:
    """Tokens, with the pictures' share of the prompt."""
    return {
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": tally.cached_tokens,
            "image_tokens": tally.image_tokens,
        },
    }


def images(tally: Tally) -> dict[str, Any]:
    """What became of the request's pictures, in order; nothing when there were none."""
    if not tally.images:
        return {}
    return {"images": [report.json for report in tally.images]}
