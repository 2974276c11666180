"""The engine as the web process sees it: asked to generate, and to count."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

from server.deadline import deadline
from server.engine_client.interface import EngineState
from server.engine_client.requests import Item, Message, Running
from server.engine_client.supervisor import EngineLimits, EngineSupervisor
from server.errors import DeadlineExceeded, EngineUnavailable, LlavaError, RequestError
from server.messages import (
    AddRequest,
    Admitted,
    Counted,
    CountRequest,
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    Pooling,
    PromptPart,
    Tokenized,
    TokenizeRequest,
    TokenOutput,
)
from server.messages.sampling import SamplingParams

__all__ = ["EngineClient", "EngineLimits"]


class EngineClient(EngineSupervisor):
    """Hands requests to the engine, whichever runs. Lives on one event loop."""

    async def generate(
        self, parts: tuple[PromptPart, ...], sampling: SamplingParams, request_id: str
    ) -> AsyncIterator[Admitted | TokenOutput]:
        """Admitted first, then TokenOutputs up to the one with a finish reason.

        If the engine is lost on the way, the next one goes on with the request. Closing the
        iterator early aborts it in the engine.

        Raises:
            RequestError: the engine refused the request.
            EngineUnavailable: there is no engine, and none came in time.
            DeadlineExceeded: the time that ``server.deadline`` sets is over.
        """
        sampling = self._limited(sampling)
        running = self._open(AddRequest(request_id, parts, sampling, time.monotonic()))
        alarm = self._set_alarm(running)
        finished = False
        try:
            while not finished:
                item = await running.items.get()
                running.read = time.monotonic()
                if running.read_on:
                    self._requests.go_on(running)
                if isinstance(item, LlavaError):
                    # After its deadline, or if it was given up, the engine may still be at it.
                    finished = not isinstance(item, DeadlineExceeded | EngineUnavailable)
                    raise item
                assert isinstance(item, Admitted | TokenOutput)
                finished = isinstance(item, TokenOutput) and item.finish_reason is not None
                yield item
        finally:
            if alarm is not None:
                alarm.cancel()
            self._requests.close(running, abort=not finished)

    async def count(self, parts: tuple[PromptPart, ...]) -> Counted:
        """The tokens of a prompt; nothing is generated, and it need not fit the context.

        Raises:
            RequestError: the engine cannot take one of the pictures.
            EngineUnavailable: there is no engine, and none came in time.
            DeadlineExceeded: the time that ``server.deadline`` sets is over.
        """
        answer = await self._ask(CountRequest(_new_id(), parts))
        assert isinstance(answer, Counted)
        return answer

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokenized:
        """The tokens of a text. Raises as ``count`` does."""
        answer = await self._ask(TokenizeRequest(_new_id(), text, add_special, parse_special))
        assert isinstance(answer, Tokenized)
        return answer

    async def detokenize(self, tokens: tuple[int, ...]) -> Tokenized:
        """The bytes of tokens. Raises as ``count`` does, also where there is no such token."""
        answer = await self._ask(DetokenizeRequest(_new_id(), tokens))
        assert isinstance(answer, Tokenized)
        return answer

    async def embed(self, parts: tuple[PromptPart, ...], pooling: Pooling) -> Embedded:
        """A prompt's vector. Raises as ``count`` does, also where it does not fit the context."""
        message = EmbedRequest(_new_id(), parts, pooling, time.monotonic())
        answer = await self._ask(message)
        assert isinstance(answer, Embedded)
        return answer

    async def _ask(self, message: Message) -> Item:
        """The one answer to a message; whoever stops waiting for it stops the engine's work."""
        running = self._open(message)
        alarm = self._set_alarm(running)
        item: Item | None = None
        try:
            item = await running.items.get()
        finally:
            if alarm is not None:
                alarm.cancel()
            self._requests.close(running, abort=item is None or isinstance(item, DeadlineExceeded))
        if isinstance(item, LlavaError):
            raise item
        return item

    def _open(self, message: Message) -> Running:
        ready = self.state is EngineState.READY and not self._stopping
        if ready or self.waits_for_engine:
            return self._requests.open(message)
        raise EngineUnavailable(f"the engine is {self.state.value}; try again shortly")

    def _set_alarm(self, running: Running) -> asyncio.TimerHandle | None:
        """One timer a request; a timeout around every token would cost much more."""
        end = deadline.get()
        if end == float("inf"):
            return None
        error = DeadlineExceeded("the request took longer than this server permits")
        loop = asyncio.get_running_loop()
        return loop.call_at(end, running.items.put_nowait, error)

    def _limited(self, sampling: SamplingParams) -> SamplingParams:
        most = self.limits.max_tokens
        if most is None:
            return sampling
        if sampling.max_tokens is None:
            return replace(sampling, max_tokens=most)
        if sampling.max_tokens > most:
            raise RequestError(
                f"max_tokens: {sampling.max_tokens} is more than the {most} that this server"
                " permits for one request",
                param="max_tokens",
                code="invalid_value",
            )
        return sampling


def _new_id() -> str:
    return f"ask-{uuid.uuid4().hex}"
