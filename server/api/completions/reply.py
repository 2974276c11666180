"""CompletionReply: a completion on the wire, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.chat_reply import images, usage
from server.api.generation import Generation
from server.api.streams import event
from server.api.timings import timings


@dataclass(slots=True, frozen=True)
class CompletionReply:
    """Writes the answers to one request. Every prompt has ``each`` generations, in order."""

    id: str
    model: str
    each: int
    generations: Sequence[Generation]
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer in one piece."""
        return {**self._head(), "choices": choices, "usage": self.usage(), **self.more()}

    def chunk(self, choice: dict[str, Any], **more: Any) -> bytes:
        """A piece of one answer."""
        return event({**self._head(), "choices": [choice], **more})

    def usage_chunk(self) -> bytes:
        """The chunk after the last choice, asked for by ``include_usage``."""
        return event({**self._head(), "choices": [], "usage": self.usage(), **self.times()})

    def usage(self) -> dict[str, Any]:
        """All tokens; a prompt counts once, however many answers it gets."""
        total = usage(self.generations[0])
        for number, generation in enumerate(self.generations[1:], 1):
            other = usage(generation)
            total["completion_tokens"] += other["completion_tokens"]
            if number % self.each == 0:
                total["prompt_tokens"] += other["prompt_tokens"]
                for name, count in other["prompt_tokens_details"].items():
                    total["prompt_tokens_details"][name] += count
        total["total_tokens"] = total["prompt_tokens"] + total["completion_tokens"]
        return total

    def times(self) -> dict[str, Any]:
        """``timings``, where there is one answer for them to be of."""
        return timings(self.generations[0]) if len(self.generations) == 1 else {}

    def more(self) -> dict[str, Any]:
        """``timings`` and ``images``."""
        found = [
            report
            for generation in self.generations[:: self.each]
            for report in images(generation).get("images", ())
        ]
        return {**self.times(), **({"images": found} if found else {})}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }


def choice(
    index: int,
    text: str,
    finish_reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One answer, or a piece of one."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}
