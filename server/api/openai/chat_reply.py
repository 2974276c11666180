"""ChatReply: a chat completion on the wire, whole or in chunks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from server.api.generate.events import compact, event
from server.api.generate.reply_parts import Tally, images, timings, usage
from server.tools.parse import CallArguments, CallBegin, Content, Piece


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
        content = json.dumps(text)
        end = ',"logprobs":null,"finish_reason":null}]}\n\n'
        return f'{self._front}{index},"delta":{{"content":{content}}}{end}'.encode("ascii")

    def usage_chunk(self, tally: Tally) -> bytes:
        """The chunk after the last choice, asked for by ``include_usage``."""
        head = self._head("chat.completion.chunk")
        last = {"usage": usage(tally), **timings(tally)}
        return event({**head, "choices": [], **last})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class MessageWriter:
    """The assistant's message, from the pieces of an answer."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def add(self, piece: Piece) -> None:
        """One more piece."""
        if isinstance(piece, Content):
            self._content.append(piece.text)
        elif isinstance(piece, CallBegin):
            self._calls.append(_call(piece))
        elif isinstance(piece, CallArguments):
            self._calls[-1]["function"]["arguments"] += piece.text

    @property
    def message(self) -> dict[str, Any]:
        """The message so far; content is null where there are calls and nothing else."""
        text = "".join(self._content)
        message = {"role": "assistant", "content": text, "refusal": None}
        if not self._calls:
            return message
        return {**message, "content": text or None, "tool_calls": self._calls}


def delta_of(piece: Piece) -> dict[str, Any] | None:
    """A stream's delta for a piece, None where it needs none.

    A call's first delta has its id and name, those after it have more of its arguments.
    """
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, CallBegin):
        return {"tool_calls": [{"index": piece.index, **_call(piece)}]}
    if isinstance(piece, CallArguments):
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
    return None


def _call(piece: CallBegin) -> dict[str, Any]:
    function = {"name": piece.name, "arguments": ""}
    return {"id": f"call_{piece.id}", "type": "function", "function": function}
