"""MessageReply: an answer in Anthropic's shape, whole or as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from server.api.generate.answer import Answer, Delta
from server.api.generate.events import event as data_event
from server.api.generate.reply_parts import Tally, images
from server.api.shapes.anthropic import (
    AnthropicBlock,
    AnthropicBlockDelta,
    AnthropicDelta,
    AnthropicEvent,
    AnthropicMessage,
    AnthropicPing,
    AnthropicStop,
    AnthropicThinking,
    AnthropicToolUse,
    AnthropicUsage,
    StopReason,
)
from server.messages import FinishReason, TokenOutput
from server.tools.parse import CallArguments, CallBegin, CallEnd, Content, Piece, Thought

PING: Final[AnthropicPing] = {"type": "ping"}


def event(payload: AnthropicEvent) -> bytes:
    """A server-sent event that bears its type as its name."""
    return b"event: " + payload["type"].encode() + b"\n" + data_event(payload)


@dataclass(slots=True)
class MessageReply:
    """Writes the answer to one request; ``max_tokens`` is what the client allowed."""

    id: str
    model: str
    max_tokens: int
    _index: int = -1
    _open: str = ""
    _blocks: list[AnthropicBlock] = field(default_factory=list)
    # Of each block that is a call: the text of its input so far.
    _inputs: dict[int, str] = field(default_factory=dict)

    async def whole(self, answer: Answer) -> AnthropicMessage:
        """The answer in one piece."""
        last: TokenOutput | None = None
        async for delta in answer:
            last = delta.output
            for piece in delta.pieces:
                self._gather(piece)
        assert last is not None
        for number, text in self._inputs.items():
            block = self._blocks[number]
            if block["type"] == "tool_use":
                block["input"] = _object(text)
        stopped = self._stopped(answer, last)
        return {
            **self._message(answer),
            "content": self._blocks,
            "stop_reason": stopped["stop_reason"],
            "stop_sequence": stopped["stop_sequence"],
            **images(answer),
        }

    async def events(self, answer: Answer) -> AsyncIterator[bytes]:
        """The answer as events; begins with the engine's first output, when all is counted."""
        begun = False
        async for delta in answer:
            if not begun:
                begun = True
                yield event({"type": "message_start", "message": self._message(answer)})
                yield event(PING)
            for each in self._events(delta):
                yield event(each)
            if delta.output.finish_reason is not None:
                for each in self._end(answer, delta.output):
                    yield event(each)

    def _message(self, tally: Tally) -> AnthropicMessage:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(tally),
        }

    def _gather(self, piece: Piece) -> None:
        if isinstance(piece, Content):
            last = self._blocks[-1] if self._blocks else None
            if last is not None and last["type"] == "text":
                last["text"] += piece.text
            else:
                self._blocks.append({"type": "text", "text": piece.text})
        elif isinstance(piece, Thought):
            if not self._blocks:
                self._blocks.append(_thinking(self.id))
            if self._blocks[-1]["type"] == "thinking":
                self._blocks[-1]["thinking"] += piece.text
        elif isinstance(piece, CallBegin):
            self._inputs[len(self._blocks)] = ""
            self._blocks.append(_tool_use(piece))
        elif isinstance(piece, CallArguments):
            self._inputs[len(self._blocks) - 1] += piece.text

    def _events(self, delta: Delta) -> Iterator[AnthropicEvent]:
        for piece in delta.pieces:
            if isinstance(piece, Content):
                yield from self._begin("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": piece.text})
            elif isinstance(piece, Thought):
                yield from self._begin("thinking", _thinking())
                yield self._delta({"type": "thinking_delta", "thinking": piece.text})
            elif isinstance(piece, CallBegin):
                yield from self._begin(piece.id, _tool_use(piece))
            elif isinstance(piece, CallArguments):
                yield self._delta({"type": "input_json_delta", "partial_json": piece.text})
            elif isinstance(piece, CallEnd):
                yield from self._close()

    def _begin(self, key: str, block: AnthropicBlock) -> Iterator[AnthropicEvent]:
        if self._open == key:
            return
        yield from self._close()
        self._open = key
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: AnthropicDelta) -> AnthropicBlockDelta:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[AnthropicEvent]:
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": self.id})
        if self._open:
            self._open = ""
            yield {"type": "content_block_stop", "index": self._index}

    def _end(self, answer: Answer, last: TokenOutput) -> Iterator[AnthropicEvent]:
        yield from self._close()
        yield {
            "type": "message_delta",
            "delta": self._stopped(answer, last),
            "usage": usage(answer),
            **images(answer),
        }
        yield {"type": "message_stop"}

    def _stopped(self, answer: Answer, last: TokenOutput) -> AnthropicStop:
        reason: StopReason = "tool_use" if answer.called else "end_turn"
        if last.finish_reason is FinishReason.LENGTH:
            cut = last.completion_tokens >= self.max_tokens
            reason = "max_tokens" if cut else "model_context_window_exceeded"
        elif last.stop is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": last.stop}


def usage(tally: Tally) -> AnthropicUsage:
    """Tokens as Anthropic counts them: what the cache held is not among ``input_tokens``."""
    return {
        "input_tokens": tally.prompt_tokens - tally.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tally.cached_tokens,
        "output_tokens": tally.completion_tokens,
    }


def _thinking(signature: str = "") -> AnthropicThinking:
    # The signature is Anthropic's proof that a thought is its model's. Ours is the message's id.
    return {"type": "thinking", "thinking": "", "signature": signature}


def _tool_use(piece: CallBegin) -> AnthropicToolUse:
    return {"type": "tool_use", "id": f"toolu_{piece.id}", "name": piece.name, "input": {}}


def _object(text: str) -> dict[str, Any]:
    # Cut short by max_tokens, it is no JSON; the stop reason says so.
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return found
