"""Counting a prompt: in the engine, across the line, and when the engine is lost."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from engine_fakes import IMAGE_TOKENS, FakeRunner, picture
from fakes import engine_ready

from server.engine import loop as worker
from server.engine.heartbeat import CurrentWork
from server.engine.intake import count
from server.engine_client.client import EngineClient
from server.engine_client.requests import Requests
from server.engine_client.supervisor import EngineSupervisor
from server.errors import EngineUnavailable, RequestError
from server.messages import Counted, CountRequest, Rejected, Shutdown, StepOutputs

PARTS = ("four", picture("a"), "six...", picture("b"))
TEXT = 10


def test_text_and_pictures_are_counted_and_nothing_is_encoded() -> None:
    runner = FakeRunner(n_cells=12)
    pictures = 2 * IMAGE_TOKENS
    assert count(runner, CountRequest("c", PARTS)) == Counted("c", TEXT + pictures, pictures)
    assert count(runner, CountRequest("c", ("",))) == Counted("c", 0, 0)
    assert not runner.cells


def test_a_picture_that_cannot_be_counted_is_rejected() -> None:
    output = count(FakeRunner(), CountRequest("c", (picture("refused"),)))
    assert isinstance(output, Rejected)
    assert isinstance(output.error, RequestError)


class Core:
    """As much of the engine's core as counting must not touch."""

    has_work = False
    busy_seconds = 0.0

    scheduler = SimpleNamespace(decodes_only=False)

    def __init__(self) -> None:
        self.runner = FakeRunner()
        self.work = CurrentWork()

    def take_outputs(self) -> tuple[()]:
        return ()

    def step(self) -> StepOutputs:
        return StepOutputs()


class Inbox:
    """One batch of messages after another."""

    def __init__(self, *batches: list[Any]) -> None:
        self.batches = list(batches)

    def take(self, *, wait: bool) -> list[Any]:
        return self.batches.pop(0)

    def put(self, message: object) -> None:
        raise AssertionError("nothing was to be tokenized")


class Line:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[StepOutputs] = []

    def send(self, message: StepOutputs) -> None:
        self.sent.append(message)


def test_the_loop_answers_at_once() -> None:
    line = Line()
    inbox: Any = Inbox([CountRequest("c", ("four",))], [Shutdown()])
    core: Any = Core()
    worker.EngineLoop(core, inbox, line).serve()  # type: ignore[arg-type]
    assert line.sent[0] == StepOutputs((Counted("c", 4, 0),))


class Process:
    """An engine process that answers with ``answer``, or not at all."""

    def __init__(self, supervisor: EngineSupervisor, answer: Any) -> None:
        self.supervisor = supervisor
        self.answer = answer

    def send(self, message: Any) -> None:
        if isinstance(message, CountRequest) and self.answer is not None:
            outputs = StepOutputs((self.answer(message.request_id),))
            loop = asyncio.get_running_loop()
            loop.call_soon(self.supervisor._take, self, outputs)

    def stop(self, patience: float) -> int:
        return -9


def client_with(answer: Any) -> EngineClient:
    requests = Requests()
    supervisor = EngineSupervisor(requests)
    process: Any = Process(supervisor, answer)
    supervisor._become_ready(process, engine_ready())
    return EngineClient(supervisor, requests)


def test_the_client_hands_the_count_back_and_keeps_nothing() -> None:
    client = client_with(lambda request_id: Counted(request_id, 74, 64))
    counted = asyncio.run(client.count(PARTS))
    assert (counted.prompt_tokens, counted.image_tokens) == (74, 64)
    assert len(client._requests) == 0


def test_the_client_raises_what_the_engine_refuses() -> None:
    client = client_with(lambda request_id: Rejected(request_id, RequestError("too odd")))
    with pytest.raises(RequestError, match="too odd"):
        asyncio.run(client.count(PARTS))


def test_a_count_ends_with_the_engine() -> None:
    async def lose() -> None:
        client = client_with(None)
        asking = asyncio.ensure_future(client.count(PARTS))
        await asyncio.sleep(0)
        await client._supervisor.stop()
        with pytest.raises(EngineUnavailable):
            await asking
        with pytest.raises(EngineUnavailable):
            await client.count(PARTS)

    asyncio.run(lose())
