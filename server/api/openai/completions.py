"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.fields.output_format import with_grammar
from server.api.generate.answer import FINISH, Delta
from server.api.generate.choices import Choices, begin_choices
from server.api.generate.dialog import Prepared, note_prompt
from server.api.generate.events import DONE, EventStream, event
from server.api.generate.reply_parts import (
    echoed_logprobs,
    images,
    progress,
    prompt_logprobs,
    text_logprobs,
    timings,
    usage,
)
from server.api.generate.services import ServedModel, Services
from server.api.http.body import read_body, while_connected
from server.api.http.openapi import operation
from server.api.openai.completions_request import (
    CompletionRequest,
    Prompt,
    parse_completion,
    read_prompts,
)
from server.api.shapes.openai import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionEvent,
    CompletionLogprobs,
    TextFinish,
    TimingFields,
)
from server.errors import RequestError
from server.messages import TokenLogprob


@dataclass(slots=True, frozen=True)
class CompletionReply:
    """Writes the answers to one request."""

    id: str
    model: str
    choices: Choices
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[CompletionChoice]) -> Completion:
        """The answer in one piece."""
        tally = self.choices
        return {**self.chunk(choices), "usage": usage(tally), **self.times(), **images(tally)}

    def chunk(self, choices: list[CompletionChoice]) -> CompletionChunk:
        """A piece of one answer."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def usage_chunk(self) -> CompletionChunk:
        """The chunk after the last choice, asked for by ``include_usage``."""
        return {**self.chunk([]), "usage": usage(self.choices), **self.times()}

    def times(self) -> TimingFields:
        """``timings``, where there is one answer for them to be of."""
        return timings(self.choices) if len(self.choices.answers) == 1 else {}


def choice(
    index: int,
    text: str,
    finish_reason: TextFinish | None = None,
    logprobs: CompletionLogprobs | None = None,
) -> CompletionChoice:
    """One answer, or a piece of one."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}


_COMPLETION = operation(
    "Completion of a text, without a template",
    "completions",
    body=CompletionRequest,
    answer=Completion,
    events=CompletionEvent,
    engine=True,
    example={"prompt": "The sky is", "max_tokens": 16},
)


def completions_router(services: Services) -> APIRouter:
    """The completion endpoint."""
    router = APIRouter()

    @router.post("/v1/completions", **_COMPLETION)
    async def completions(request: Request) -> Response:
        arrival = time.monotonic()
        services.models.check()
        body = await read_body(request, services.body_limits, parse_completion)
        model = services.models[body.model]
        request_id = f"cmpl-{uuid.uuid4().hex}"
        started = _start(services, model, body, request_id, arrival)
        prompts, choices = await while_connected(request.receive, started)
        reply = CompletionReply(request_id, model.name, choices)
        fronts = [_front(body, prompt) for prompt in prompts for _ in range(body.choices_each)]
        if body.stream:
            events = _events(body, reply, fronts)
            interval = body.ping_interval(services.options.sse_ping_interval)
            return EventStream(events, choices.aclose, services, ping_interval=interval, last=DONE)
        return await while_connected(request.receive, _whole(body, reply, fronts))

    return router


async def _start(
    services: Services,
    model: ServedModel,
    body: CompletionRequest,
    request_id: str,
    arrival: float,
) -> tuple[list[Prompt], Choices]:
    """Returns once all prompts were counted and fit. Raises RequestError, naming the field."""
    prompts = await read_prompts(services, model, body)
    note_prompt(part for prompt in prompts for part in prompt.parts)
    sampling = await with_grammar(body.sampling(), body, body.response_format)
    prepared = [Prepared(model, prompt.parts, sampling) for prompt in prompts]
    try:
        choices = await begin_choices(
            services, prepared, body.choices_each, request_id=request_id, arrival=arrival
        )
    except RequestError as exc:
        if exc.param == "messages":  # the engine's word for any prompt
            exc.param = "prompt"
        raise
    return prompts, choices


def _front(body: CompletionRequest, prompt: Prompt) -> str:
    """What ``echo`` puts before an answer."""
    return prompt.text if body.echo else ""


async def _whole(body: CompletionRequest, reply: CompletionReply, fronts: list[str]) -> Response:
    """The answer in one piece."""
    texts = list(fronts)
    reasons: list[TextFinish | None] = [None] * len(fronts)
    tokens: list[list[TokenLogprob]] = [[] for _ in fronts]
    prompts: list[tuple[TokenLogprob, ...]] = [()] * len(fronts)
    try:
        async for delta in reply.choices:
            texts[delta.index] += delta.text
            prompts[delta.index] = prompts[delta.index] or delta.output.prompt_logprobs
            tokens[delta.index] += delta.logprobs
            reasons[delta.index] = _reason(delta)
    finally:
        await reply.choices.aclose()
    choices = [
        choice(
            index,
            texts[index],
            reasons[index],
            _echoed(body, prompts[index], tokens[index], fronts[index]),
        )
        for index in range(len(fronts))
    ]
    if body.prompt_logprobs is not None:
        for made, prompt in zip(choices, prompts, strict=True):
            made["prompt_logprobs"] = prompt_logprobs(prompt, body.prompt_logprobs)
    return JSONResponse(reply.whole(choices))


def _reason(delta: Delta) -> TextFinish | None:
    reason = delta.output.finish_reason
    return FINISH[reason] if reason is not None else None


def _logprobs(
    body: CompletionRequest, tokens: Sequence[TokenLogprob], offset: int
) -> CompletionLogprobs | None:
    return None if body.logprobs is None else text_logprobs(tokens, offset)


def _echoed(
    body: CompletionRequest,
    prompt: Sequence[TokenLogprob],
    tokens: Sequence[TokenLogprob],
    front: str,
) -> CompletionLogprobs | None:
    """``logprobs`` of an answer behind its prompt ``front``, which is empty without ``echo``."""
    found = _logprobs(body, tokens, len(front))
    if found is None or not body.echo:
        return found
    before = echoed_logprobs(prompt, front, body.with_logprobs or 0)
    return {
        "tokens": before["tokens"] + found["tokens"],
        "token_logprobs": before["token_logprobs"] + found["token_logprobs"],
        "top_logprobs": before["top_logprobs"] + found["top_logprobs"],
        "text_offset": before["text_offset"] + found["text_offset"],
    }


async def _events(
    body: CompletionRequest, reply: CompletionReply, fronts: list[str]
) -> AsyncIterator[bytes]:
    """The answers as they come."""
    left = len(fronts)
    offsets = [0] * left
    scored = body.echo and body.with_logprobs is not None
    for index, front in enumerate(fronts):
        if body.echo and not scored:
            yield event(reply.chunk([choice(index, front)]))
    async for delta in reply.choices:
        index, text, reason = delta.index, delta.text, _reason(delta)
        left -= reason is not None
        if scored and delta.output.prompt_logprobs:
            front = fronts[index]
            before = _echoed(body, delta.output.prompt_logprobs, (), front)
            yield event(reply.chunk([choice(index, front, None, before)]))
            offsets[index] = len(front)
        logprobs = _logprobs(body, delta.logprobs, offsets[index])
        offsets[index] += len(text)
        if text or delta.logprobs or reason:
            chunk = reply.chunk([choice(index, text, reason, logprobs)])
            chunk = {**chunk, **progress(reply.choices.answers[index], body)}
            if not left:
                chunk = {**chunk, **images(reply.choices)}
            if not left and not body.include_usage:
                chunk = {**chunk, **reply.times()}
            yield event(chunk)
    if body.include_usage:
        yield event(reply.usage_chunk())
