"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from server.api.fields.output_format import with_grammar
from server.api.generate.choices import Several
from server.api.generate.dialog import note_prompt
from server.api.generate.events import EventStream, event, guarded
from server.api.generate.generation import Generation
from server.api.generate.reply_parts import images, text_logprobs, timings, usage
from server.api.generate.services import Services
from server.api.http.body import read_body
from server.api.http.connection import while_connected
from server.api.http.openapi import operation
from server.api.http.record import pictures_of
from server.api.openai.completions_request import (
    CompletionRequest,
    Prompt,
    parse_completion,
    read_prompts,
)
from server.api.shapes.openai import Completion, CompletionEvent
from server.engine_client.interface import require_ready
from server.errors import RequestError
from server.messages import EngineReady, TokenLogprob
from server.messages.sampling import SamplingParams


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
        ready = require_ready(services.engine)
        body = await read_body(request, services.body_limits, parse_completion)
        begun = _Begun(services, ready, body, arrival)
        await while_connected(request.receive, begun.start())
        if body.stream:
            events = guarded(begun.events(), services, request)
            interval = body.ping_interval(services.options.sse_ping_interval)
            return EventStream(events, begun.running.aclose, interval)
        return await while_connected(request.receive, begun.whole())

    return router


class _Begun:
    """A request that is being answered: for each prompt so many generations, in order."""

    def __init__(
        self, services: Services, ready: EngineReady, body: CompletionRequest, arrival: float
    ) -> None:
        self._services = services
        self._ready = ready
        self._body = body
        self._arrival = arrival
        self._prompts: list[Prompt] = []
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self.running = Several(())

    async def start(self) -> None:
        """Returns once all prompts were counted and fit. Raises RequestError, naming the field."""
        self._prompts = await read_prompts(self._services, self._ready, self._body)
        note_prompt(part for prompt in self._prompts for part in prompt.parts)
        sampling = await with_grammar(self._body.sampling(), self._body, self._body.response_format)
        each = [self._body.of_choice(sampling, n) for n in range(self._body.choices_each)]
        self.running = Several(
            [
                self._generate(prompt, params, first=not number)
                for prompt in self._prompts
                for number, params in enumerate(each)
            ]
        )
        try:
            await self.running.admit()
        except RequestError as exc:
            if exc.param == "messages":  # the engine's word for any prompt
                exc.param = "prompt"
            raise
        self._reply = CompletionReply(
            self._id,
            self._services.served_name(self._ready.model),
            self._body.choices_each,
            self.running.generations,
        )

    def _generate(self, prompt: Prompt, sampling: SamplingParams, *, first: bool) -> Generation:
        request_id = f"{self._id}-{uuid.uuid4().hex[:8]}"
        outputs = self._services.engine.generate(prompt.parts, sampling, request_id)
        pictures, metrics = pictures_of(prompt.parts), self._services.metrics
        return Generation(outputs, metrics, self._arrival, pictures, first=first)

    def _front(self, index: int) -> str:
        """What ``echo`` puts before an answer."""
        return self._prompts[index // self._body.choices_each].text if self._body.echo else ""

    async def whole(self) -> Response:
        """The answer in one piece."""
        count = len(self.running.generations)
        texts = [self._front(index) for index in range(count)]
        reasons = [""] * count
        tokens: list[list[TokenLogprob]] = [[] for _ in range(count)]
        try:
            async for index, output in self.running:
                texts[index] += output.text
                tokens[index] += output.logprobs
                if output.finish_reason:
                    reasons[index] = output.finish_reason.value
        finally:
            await self.running.aclose()
        choices = [
            choice(index, texts[index], reasons[index], self._logprobs(tokens[index], 0))
            for index in range(count)
        ]
        return JSONResponse(self._reply.whole(choices))

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        return None if self._body.logprobs is None else text_logprobs(tokens, offset)

    async def events(self) -> AsyncIterator[bytes]:
        """The answers as they come."""
        left = len(self.running.generations)
        offsets = [0] * left
        for index in range(left if self._body.echo else 0):
            yield self._reply.chunk(choice(index, self._front(index)))
        async for index, output in self.running:
            reason = output.finish_reason.value if output.finish_reason else None
            left -= reason is not None
            more = {}
            if not left:
                more = self._reply.more()
                if self._body.include_usage:
                    more.pop("timings", None)
            logprobs = self._logprobs(output.logprobs, offsets[index])
            offsets[index] += len(output.text)
            if output.text or output.logprobs or reason:
                piece = choice(index, output.text, reason, logprobs)
                yield self._reply.chunk(piece, **more)
        if self._body.include_usage:
            yield self._reply.usage_chunk()
