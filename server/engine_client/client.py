"""The engine as the API sees it: it generates, counts, embeds and tokenizes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from server.deadline import deadline
from server.engine_client.interface import EngineState
from server.engine_client.requests import Item, Message, Requests, Running
from server.engine_client.supervisor import EngineSupervisor
from server.errors import DeadlineExceeded, EngineUnavailable, LlavaError, RequestError
from server.messages import (
    AddRequest,
    Admitted,
    Counted,
    CountRequest,
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    EngineProgress,
    EngineReady,
    Pooling,
    PromptPart,
    SchedulerStats,
    StepOutputs,
    Tokenized,
    TokenizeRequest,
    TokenOutput,
)
from server.messages.sampling import SamplingParams
from server.usage import Usage


class EngineClient:
    """Hands requests to whichever engine the supervisor runs. Lives on one event loop."""

    def __init__(
        self, supervisor: EngineSupervisor, requests: Requests, max_tokens: int | None = None
    ) -> None:
        """``requests`` are those of the supervisor; ``max_tokens`` bounds what one generates."""
        self._supervisor = supervisor
        self._requests = requests
        self._max_tokens = max_tokens

    @property
    def state(self) -> EngineState:
        """Whether requests can come."""
        return self._supervisor.state

    @property
    def ready(self) -> EngineReady | None:
        """Facts of the loaded model; None until it was loaded once."""
        return self._supervisor.ready

    @property
    def model_path(self) -> Path | None:
        """The model's file; None before it is known."""
        return self._supervisor.model_path

    @property
    def progress(self) -> EngineProgress | None:
        """How far downloading or loading is."""
        return self._supervisor.progress

    @property
    def stats(self) -> SchedulerStats:
        """The last step's statistics."""
        return self._supervisor.stats

    @property
    def restarts(self) -> int:
        """How often the engine was started again."""
        return self._supervisor.restarts

    @property
    def step_age(self) -> float:
        """Seconds that the engine has been at its present work; 0 if it waits for some."""
        return self._supervisor.step_age

    @property
    def usage(self) -> Usage:
        """What each client's requests took."""
        return self._supervisor.usage

    @property
    def pauses(self) -> int:
        """How often a request left the engine because its reader had stopped."""
        return self._requests.pauses

    def watch(self, on_step: Callable[[StepOutputs], None]) -> None:
        """Calls ``on_step`` with all that comes from the engine, on the event loop."""
        self._supervisor.watch(on_step)

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
                    # After its deadline, or if it was given up, the engine may still work on it.
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
        """The one answer to a message; the engine's work ends when its client stops waiting."""
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
        if self._supervisor.accepts:
            return self._requests.open(replace(message, account=self.usage.now()))
        raise EngineUnavailable(f"the engine is {self.state.value}; try again shortly")

    def _set_alarm(self, running: Running) -> asyncio.TimerHandle | None:
        """One timer a request; a timeout around every token would cost much more."""
        end = deadline.get()
        if end == float("inf"):
            return None
        return asyncio.get_running_loop().call_at(end, _exceed_deadline, running)

    def _limited(self, sampling: SamplingParams) -> SamplingParams:
        most = self._max_tokens
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


def _exceed_deadline(running: Running) -> None:
    error = DeadlineExceeded("the request took longer than this server permits")
    running.items.put_nowait(error)
