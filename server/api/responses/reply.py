"""ResponseReply: the Response object, and its output as it grows."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from server.api.fields.messages import Strict
from server.api.generate.answer import Answer, Delta
from server.api.generate.reply_parts import Tally, chat_logprobs, images
from server.api.http.errors import error_body
from server.api.responses.request import FunctionTool, ResponsesRequest, TextFormat
from server.api.shapes.openai import ChatLogprob, ImageFields
from server.api.shapes.responses import (
    IncompleteDetails,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputThoughtText,
    ResponseAsked,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
)
from server.errors import DeadlineExceeded, LlavaError
from server.messages import FinishReason
from server.tools.parse import CallArguments, CallBegin, CallEnd, Content, Piece, Thought
from server.tools.tool import new_call_id


@dataclass(slots=True)
class ResponseReply:
    """One response: what was asked, and ``output``, its items so far."""

    request: ResponsesRequest
    model: str
    id: str = field(default_factory=lambda: f"resp_{new_call_id()}{new_call_id()}")
    created: int = field(default_factory=lambda: int(time.time()))
    output: list[OutputItem] = field(default_factory=list)
    status: ResponseStatus = "in_progress"

    def json(self, answer: Answer, error: LlavaError | None = None) -> ResponseObject:
        """The response as it is now; usage comes with its end."""
        ended = self.status in ("completed", "incomplete")
        cut: IncompleteDetails | None = (
            {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        )
        failure = {"code": _code(error), "message": error.message} if error is not None else None
        seen: ImageFields = images(answer) if ended else {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if self.status == "completed" else None,
            "status": self.status,
            "error": failure,
            "incomplete_details": cut,
            "model": self.model,
            "output": self.output,
            "usage": usage(answer) if ended else None,
            **_asked(self.request),
            **seen,
        }


def _code(error: LlavaError) -> str:
    """OpenAI's code. With server_error and rate_limit_exceeded clients send the request again, so
    what would fail again has another one.
    """
    if error.code == "context_length_exceeded":
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    # A request that took too long takes as long again.
    again = error.status >= 500 and not isinstance(error, DeadlineExceeded)
    return "server_error" if again else "invalid_prompt"


def _asked(request: ResponsesRequest) -> ResponseAsked:
    """What was asked, with the defaults filled in, as OpenAI repeats it."""
    choice = request.tool_choice
    sampling, user = request.sampling(), request.user
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.most_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": _reasoning(request),
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": sampling.temperature,
        "text": {"format": _format(request.text.format if request.text else None)},
        "tool_choice": choice.model_dump() if isinstance(choice, Strict) else choice or "auto",
        "tools": [_tool(tool) for tool in request.tools or () if isinstance(tool, FunctionTool)],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": user if user is None or isinstance(user, str) else json.dumps(user),
    }


def _reasoning(request: ResponsesRequest) -> dict[str, Any]:
    asked = request.reasoning
    return {
        "effort": request.asked_thinking().effort,
        "summary": asked.summary if asked is not None else None,
    }


def _format(form: TextFormat | None) -> dict[str, Any]:
    if form is None or form.type != "json_schema":
        return {"type": form.type if form else "text"}
    return {
        "type": "json_schema",
        "name": form.name,
        "description": form.description,
        "schema": form.schema_,
        "strict": bool(form.strict),
    }


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def usage(tally: Tally) -> ResponseUsage:
    """Tokens; ``image_tokens`` are ours, and among the input's."""
    return {
        "input_tokens": tally.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": tally.cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": tally.image_tokens,
        },
        "output_tokens": tally.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": tally.reasoning_tokens},
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
    }


Event = dict[str, Any]


def encoded(event: Event) -> bytes:
    """A server-sent event that bears its type as its name."""
    kind: str = event["type"]
    data = json.dumps(event, separators=(",", ":")).encode("ascii")
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


@dataclass(slots=True, frozen=True)
class _ThoughtForm:
    """How a thought is sent: the item's list that holds it, its part's type, and its events."""

    place: Literal["content", "summary"]
    part: Literal["reasoning_text", "summary_text"]
    part_event: str
    text_event: str
    index: dict[str, int]


_IN_FULL = _ThoughtForm(
    "content",
    "reasoning_text",
    "response.content_part",
    "response.reasoning_text",
    {"content_index": 0},
)
_AS_SUMMARY = _ThoughtForm(
    "summary",
    "summary_text",
    "response.reasoning_summary_part",
    "response.reasoning_summary_text",
    {"summary_index": 0},
)


class ResponseWriter:
    """Fills ``reply.output`` from ``answer``. Every event bears the next sequence number."""

    def __init__(self, reply: ResponseReply, answer: Answer) -> None:
        self._reply = reply
        self._answer = answer
        self._sequence = -1
        self._item: OutputItem | None = None
        asked = reply.request.reasoning
        summary = asked is not None and asked.summary not in (None, "none")
        self._thought = _AS_SUMMARY if summary else _IN_FULL

    async def events(self) -> AsyncIterator[Event]:
        """All events, from ``response.created`` to the last one."""
        for kind in ("created", "in_progress"):
            yield self._whole(kind)
        async for delta in self._answer:
            for event in self._delta(delta):
                yield event
        yield self._whole(self._reply.status)

    def failed(self, error: LlavaError) -> list[Event]:
        """The events of an error in the middle of the stream.

        The Responses API has the fields of ``error`` flat; OpenAI's SDKs raise what they find
        under ``error``. Other clients (Codex) ask again unless the response itself has failed.
        """
        detail = error_body(error)["error"]
        self._reply.status = "failed"
        return [
            self._event("error", **{**detail, "type": "error"}, error=detail),
            self._event("response.failed", response=self._reply.json(self._answer, error)),
        ]

    def in_progress(self) -> Event:
        """Sent again where nothing else is: clients (Codex) do not count comments as life."""
        return self._whole("in_progress")

    def _event(self, kind: str, **fields: Any) -> Event:
        self._sequence += 1
        return {**fields, "type": kind, "sequence_number": self._sequence}

    def _whole(self, kind: str) -> Event:
        return self._event(f"response.{kind}", response=self._reply.json(self._answer))

    def _delta(self, delta: Delta) -> Iterator[Event]:
        logprobs = chat_logprobs(delta.logprobs)["content"] or []
        for piece in delta.pieces:
            yield from self._piece(piece, logprobs)
            if isinstance(piece, Content):
                logprobs = []
        if delta.output.finish_reason is not None:
            cut = delta.output.finish_reason is FinishReason.LENGTH
            self._reply.status = "incomplete" if cut else "completed"
            if not self._reply.output:
                yield from self._begin_message()
            yield from self._close("incomplete" if cut else "completed")

    def _piece(self, piece: Piece, logprobs: list[ChatLogprob]) -> Iterator[Event]:
        if isinstance(piece, Content):
            yield from self._begin_message()
            yield from self._text(piece.text, logprobs)
        elif isinstance(piece, Thought):
            yield from self._think(piece.text)
        elif isinstance(piece, CallBegin):
            yield from self._begin_call(piece)
        elif isinstance(piece, CallArguments):
            self._open_call()["arguments"] += piece.text
            yield self._of_item("response.function_call_arguments.delta", delta=piece.text)
        elif isinstance(piece, CallEnd):
            yield from self._close("completed")

    def _begin_message(self) -> Iterator[Event]:
        if self._item is not None and self._item["type"] == "message":
            return
        yield from self._close("completed")
        yield self._add(
            {
                "type": "message",
                "id": f"msg_{new_call_id()}",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        )
        part = _text_part("")
        self._open_message()["content"].append(part)
        yield self._of_part("response.content_part.added", part=dict(part))

    def _think(self, text: str) -> Iterator[Event]:
        """More of a thought, which is sent as its own summary where the client wants one."""
        form = self._thought
        if self._item is None:
            yield self._add(
                {
                    "type": "reasoning",
                    "id": f"rs_{new_call_id()}",
                    "summary": [],
                    "content": [],
                    "status": "in_progress",
                }
            )
            part: OutputThoughtText = {"type": form.part, "text": ""}
            self._open_thought()[form.place].append(part)
            yield self._of_item(f"{form.part_event}.added", **form.index, part=dict(part))
        self._open_thought()[form.place][0]["text"] += text
        yield self._of_item(f"{form.text_event}.delta", **form.index, delta=text)

    def _close_thought(self, item: OutputReasoning) -> Iterator[Event]:
        form = self._thought
        part = item[form.place][0]
        yield self._of_item(f"{form.text_event}.done", **form.index, text=part["text"])
        yield self._of_item(f"{form.part_event}.done", **form.index, part=dict(part))

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

    def _text(self, text: str, logprobs: list[ChatLogprob]) -> Iterator[Event]:
        part = self._open_message()["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._of_part("response.output_text.delta", delta=text, logprobs=logprobs)

    def _close(self, status: ItemStatus) -> Iterator[Event]:
        item = self._item
        if item is None:
            return
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            text, logprobs = part["text"], part["logprobs"]
            yield self._of_part("response.output_text.done", text=text, logprobs=logprobs)
            yield self._of_part("response.content_part.done", part=dict(part))
        elif item["type"] == "reasoning":
            yield from self._close_thought(item)
        else:
            arguments, name = item["arguments"], item["name"]
            kind = "response.function_call_arguments.done"
            yield self._of_item(kind, arguments=arguments, name=name)
        index = len(self._reply.output) - 1
        yield self._event("response.output_item.done", output_index=index, item=dict(item))
        self._item = None

    def _add(self, item: OutputItem) -> Event:
        self._item = item
        self._reply.output.append(item)
        index = len(self._reply.output) - 1
        # Its content comes with events of its own.
        shown = {**item, "content": []} if "content" in item else dict(item)
        return self._event("response.output_item.added", output_index=index, item=shown)

    def _open_message(self) -> OutputMessage:
        assert self._item is not None
        assert self._item["type"] == "message"
        return self._item

    def _open_thought(self) -> OutputReasoning:
        assert self._item is not None
        assert self._item["type"] == "reasoning"
        return self._item

    def _open_call(self) -> OutputCall:
        assert self._item is not None
        assert self._item["type"] == "function_call"
        return self._item

    def _of_item(self, kind: str, **fields: Any) -> Event:
        index = len(self._reply.output) - 1
        return self._event(
            kind, item_id=self._reply.output[index]["id"], output_index=index, **fields
        )

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)


def _text_part(text: str) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
