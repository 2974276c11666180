"""POST /v1/chat/completions: the endpoint, and its answer whole or in chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.fields.output_format import with_grammar
from server.api.generate.answer import Delta
from server.api.generate.choices import Choices, begin_choices
from server.api.generate.dialog import prepare, prompt_of
from server.api.generate.events import DONE, EventStream, compact, event
from server.api.generate.reply_parts import (
    Tally,
    chat_logprobs,
    images,
    input_tokens_of,
    progress,
    prompt_logprobs,
    timings,
    usage,
)
from server.api.generate.services import ServedModel, Services
from server.api.http.body import read_body, while_connected
from server.api.http.openapi import operation
from server.api.openai.chat_request import ChatRequest, parse_chat, read_chat
from server.api.shapes.openai import (
    ChatAnswerMessage,
    ChatCall,
    ChatCallDelta,
    ChatCalled,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatEvent,
    ChatFinish,
    ChatLogprobs,
    InputTokens,
    ProgressFields,
    PromptScores,
)
from server.messages import TokenLogprob
from server.tools.parse import CallArguments, CallBegin, Content, Piece, Thought

EXAMPLE = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
                {"type": "text", "text": "What is in the picture?"},
            ],
        }
    ],
    "max_tokens": 100,
}


@dataclass(slots=True, frozen=True)
class ChatReply:
    """Writes the answers to one request."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    _front: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Writes down once what all chunks of the stream begin with."""
        empty = compact(self._chunk([]))
        object.__setattr__(self, "_front", f'data: {empty.removesuffix("]}")}{{"index":')

    def choice(
        self,
        index: int,
        message: ChatAnswerMessage,
        finish_reason: ChatFinish,
        logprobs: ChatLogprobs | None,
    ) -> ChatChoice:
        """One choice in one piece."""
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def whole(
        self, choices: list[ChatChoice], tally: Tally, scores: PromptScores
    ) -> ChatCompletion:
        """The answer in one piece."""
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage(tally),
            **scores,
            **timings(tally),
            **images(tally),
        }

    def delta(
        self,
        delta: ChatDelta,
        finish_reason: ChatFinish | None = None,
        logprobs: ChatLogprobs | None = None,
        index: int = 0,
    ) -> ChatChunk:
        """A chunk of a stream."""
        choice: ChatChunkChoice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._chunk([choice])

    def text(self, text: str, index: int = 0) -> bytes:
        """A chunk of plain text: what ``delta`` gives for it, in a tenth of the time."""
        content = json.dumps(text)
        end = ',"logprobs":null,"finish_reason":null}]}\n\n'
        return f'{self._front}{index},"delta":{{"content":{content}}}{end}'.encode("ascii")

    def usage_chunk(self, tally: Tally) -> ChatChunk:
        """The chunk after the last choice, asked for by ``include_usage``."""
        return {**self._chunk([]), "usage": usage(tally), **timings(tally)}

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


class MessageWriter:
    """The assistant's message, from the pieces of an answer."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._thought: list[str] = []
        self._calls: list[ChatCall] = []

    def add(self, piece: Piece) -> None:
        """One more piece."""
        if isinstance(piece, Content):
            self._content.append(piece.text)
        elif isinstance(piece, Thought):
            self._thought.append(piece.text)
        elif isinstance(piece, CallBegin):
            self._calls.append(_call(piece))
        elif isinstance(piece, CallArguments):
            self._calls[-1]["function"]["arguments"] += piece.text

    @property
    def message(self) -> ChatAnswerMessage:
        """The message so far; content is null where there are calls and nothing else."""
        text = "".join(self._content)
        message: ChatAnswerMessage = {"role": "assistant", "content": text, "refusal": None}
        if self._thought:
            message["reasoning_content"] = "".join(self._thought)
        if not self._calls:
            return message
        return {**message, "content": text or None, "tool_calls": self._calls}


def delta_of(piece: Piece) -> ChatDelta | None:
    """A stream's delta for a piece, None where it needs none.

    A call's first delta has its id and name, those after it have more of its arguments.
    """
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, Thought):
        return {"reasoning_content": piece.text}
    if isinstance(piece, CallBegin):
        first: ChatCallDelta = {
            "index": piece.index,
            "id": f"call_{piece.id}",
            "type": "function",
            "function": {"name": piece.name, "arguments": ""},
        }
        return {"tool_calls": [first]}
    if isinstance(piece, CallArguments):
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
    return None


def _call(piece: CallBegin) -> ChatCall:
    function: ChatCalled = {"name": piece.name, "arguments": ""}
    return {"id": f"call_{piece.id}", "type": "function", "function": function}


def chat_router(services: Services) -> APIRouter:
    """The chat endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        **operation(
            "Chat completion",
            "chat",
            body=ChatRequest,
            answer=ChatCompletion,
            events=ChatEvent,
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def chat_completions(request: Request) -> Response:
        arrival = time.monotonic()
        services.models.check()
        body = await read_body(request, services.body_limits, parse_chat)
        model = services.models[body.model]
        reply = ChatReply(f"chatcmpl-{uuid.uuid4().hex}", model.name)
        started = _start(services, model, body, reply.id, arrival)
        choices = await while_connected(request.receive, started)
        if body.stream:
            events = _events(reply, choices, body)
            interval = body.ping_interval(services.options.sse_ping_interval)
            return EventStream(events, choices.aclose, services, ping_interval=interval, last=DONE)
        whole = _whole(reply, choices, body)
        return await while_connected(request.receive, whole)

    return router


async def _start(
    services: Services, model: ServedModel, body: ChatRequest, request_id: str, arrival: float
) -> Choices:
    sampling = await with_grammar(body.sampling(), body, body.response_format)
    prepared = await prepare(services, model, read_chat(body), sampling)
    return await begin_choices(
        services, [prepared], body.choices, request_id=request_id, arrival=arrival
    )


@dataclass(slots=True)
class _Whole:
    """A choice while it grows."""

    writer: MessageWriter = field(default_factory=MessageWriter)
    tokens: list[TokenLogprob] = field(default_factory=list)
    reason: ChatFinish = "stop"


async def _whole(reply: ChatReply, choices: Choices, body: ChatRequest) -> Response:
    wholes = [_Whole() for _ in choices.answers]
    prompt: tuple[TokenLogprob, ...] = ()
    try:
        async for delta in choices:
            whole = wholes[delta.index]
            for piece in delta.pieces:
                whole.writer.add(piece)
            whole.tokens += delta.logprobs
            prompt = prompt or delta.output.prompt_logprobs
            whole.reason = delta.finish_reason or whole.reason
    finally:
        await choices.aclose()
    made = [
        reply.choice(
            index,
            whole.writer.message,
            whole.reason,
            chat_logprobs(whole.tokens) if body.with_logprobs else None,
        )
        for index, whole in enumerate(wholes)
    ]
    scores: PromptScores = {}
    if body.prompt_logprobs is not None:
        scores["prompt_logprobs"] = prompt_logprobs(prompt, body.prompt_logprobs)
    return JSONResponse(reply.whole(made, choices, scores))


async def _events(reply: ChatReply, choices: Choices, body: ChatRequest) -> AsyncIterator[bytes]:
    for index, answer in enumerate(choices.answers):
        content = None if answer.may_call else ""
        yield event(reply.delta({"role": "assistant", "content": content}, index=index))
    with_progress = body.continuous_usage or bool(body.timings_per_token)
    async for delta in choices:
        so_far = progress(choices.answers[delta.index], body) if with_progress else {}
        for piece in _chunks(reply, delta, so_far):
            yield piece
        if delta.finish_reason:
            index = delta.index
            chunk = {**reply.delta({}, delta.finish_reason, index=index), **so_far}
            if not index:
                chunk = {**chunk, **images(choices)}
            if not body.include_usage:
                chunk = {**chunk, **timings(choices)}
            yield event(chunk)
    if body.include_usage:
        yield event(reply.usage_chunk(choices))


def _chunks(reply: ChatReply, delta: Delta, so_far: ProgressFields) -> Iterator[bytes]:
    pieces, index = delta.pieces, delta.index
    if not delta.logprobs and not so_far and all(isinstance(piece, Content) for piece in pieces):
        if pieces:
            yield reply.text(delta.text, index)
        return
    logprobs = chat_logprobs(delta.logprobs) if delta.logprobs else None
    found = (delta_of(piece) for piece in pieces)
    changes: list[ChatDelta] = [change for change in found if change is not None]
    if logprobs is not None and not changes:
        changes = [{"content": ""}]
    for change in changes:
        own = logprobs if "content" in change else None
        yield event({**reply.delta(change, logprobs=own, index=index), **so_far})
        logprobs = None if own else logprobs


def input_tokens_router(services: Services) -> APIRouter:
    """The counting endpoint; its body is a chat completion's."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions/input_tokens",
        **operation(
            "Tokens of a chat completion's prompt",
            "chat",
            body=ChatRequest,
            answer=InputTokens,
            engine=True,
            example=EXAMPLE,
        ),
    )
    async def input_tokens(request: Request) -> InputTokens:
        services.models.check()
        body = await read_body(request, services.body_limits, parse_chat)
        model = services.models[body.model]

        async def work() -> InputTokens:
            parts = await prompt_of(services, model, read_chat(body))
            counted = await model.engine.count(parts)
            return input_tokens_of(counted)

        return await while_connected(request.receive, work())

    return router
