"""ResponseWriter: from the answer's steps to a response's output items, and the events of both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from server.api.answer import Answer, Step
from server.api.errors import error_body
from server.api.logprobs import chat_logprobs
from server.api.responses.reply import ResponseReply
from server.errors import LlavaError
from server.messages import FinishReason
from server.tools.call import new_call_id
from server.tools.parse import CallArguments, CallBegin, CallEnd, Content, Piece

Event = dict[str, Any]


def encoded(event: Event) -> bytes:
    """A server-sent event that bears its type as its name."""
    kind: str = event["type"]
    data = json.dumps(event, separators=(",", ":")).encode("ascii")
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


class ResponseWriter:
    """Fills ``reply.output`` from ``answer``. Every event bears the next sequence number."""

    def __init__(self, reply: ResponseReply, answer: Answer) -> None:
        self._reply = reply
        self._answer = answer
        self._sequence = -1
        self._item: dict[str, Any] | None = None

    async def events(self) -> AsyncIterator[Event]:
        """All events, from ``response.created`` to the last one."""
        for kind in ("created", "in_progress"):
            yield self._whole(kind)
        async for step in self._answer:
            for event in self._step(step):
                yield event
        yield self._whole(self._reply.status)

    def error(self, error: LlavaError) -> Event:
        """The event of an error in the middle of the stream.

        The Responses API has the fields flat; OpenAI's clients raise what they find under
        ``error``.
        """
        detail = error_body(error)["error"]
        return self._event("error", **{**detail, "type": "error"}, error=detail)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._sequence += 1
        return {**fields, "type": kind, "sequence_number": self._sequence}

    def _whole(self, kind: str) -> Event:
        return self._event(f"response.{kind}", response=self._reply.json(self._answer))

    def _step(self, step: Step) -> Iterator[Event]:
        logprobs = chat_logprobs(step.logprobs)["content"]
        for piece in step.pieces:
            yield from self._piece(piece, logprobs)
            if isinstance(piece, Content):
                logprobs = []
        if step.output.finish_reason is not None:
            cut = step.output.finish_reason is FinishReason.LENGTH
            self._reply.status = "incomplete" if cut else "completed"
            if not self._reply.output:
                yield from self._begin_message()
            yield from self._close(self._reply.status)

    def _piece(self, piece: Piece, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if isinstance(piece, Content):
            yield from self._begin_message()
            yield from self._text(piece.text, logprobs)
        elif isinstance(piece, CallBegin):
            yield from self._begin_call(piece)
        elif isinstance(piece, CallArguments):
            item = self._open()
            item["arguments"] += piece.text
            yield self._of_item("response.function_call_arguments.delta", delta=piece.text)
        elif isinstance(piece, CallEnd):
            yield from self._close("completed")

    def _begin_message(self) -> Iterator[Event]:
        if self._item is not None and self._item["type"] == "message":
            return
        yield from self._close("completed")
        item = {"type": "message", "id": f"msg_{new_call_id()}", "role": "assistant"}
        yield self._add({**item, "status": "in_progress", "content": []})
        part = _text_part("")
        self._open()["content"].append(part)
        yield self._of_part("response.content_part.added", part=dict(part))

    def _begin_call(self, piece: CallBegin) -> Iterator[Event]:
        yield from self._close("completed")
        yield self._add(
            {
                "type": "function_call",
                "id": f"fc_{piece.id}",
                "call_id": f"call_{piece.id}",
                "name": piece.name,
                "arguments": "",
                "status": "in_progress",
            }
        )

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        part = self._open()["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._of_part("response.output_text.delta", delta=text, logprobs=logprobs)

    def _close(self, status: str) -> Iterator[Event]:
        item = self._item
        if item is None:
            return
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            text, logprobs = part["text"], part["logprobs"]
            yield self._of_part("response.output_text.done", text=text, logprobs=logprobs)
            yield self._of_part("response.content_part.done", part=dict(part))
        else:
            arguments, name = item["arguments"], item["name"]
            kind = "response.function_call_arguments.done"
            yield self._of_item(kind, arguments=arguments, name=name)
        index = len(self._reply.output) - 1
        yield self._event("response.output_item.done", output_index=index, item=dict(item))
        self._item = None

    def _add(self, item: dict[str, Any]) -> Event:
        self._item = item
        self._reply.output.append(item)
        index = len(self._reply.output) - 1
        # Its content comes with events of its own.
        shown = {**item, "content": []} if "content" in item else dict(item)
        return self._event("response.output_item.added", output_index=index, item=shown)

    def _open(self) -> dict[str, Any]:
        assert self._item is not None
        return self._item

    def _of_item(self, kind: str, **fields: Any) -> Event:
        index = len(self._reply.output) - 1
        return self._event(kind, item_id=self._open()["id"], output_index=index, **fields)

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
