"""Templates, schemas and long bodies: threads work for the client who took least."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat

from server import fair_queue
from server.api.app import create_app
from server.api.options import ApiOptions
from server.fair_queue import FairThreads, in_turn
from server.prompt import ChatTemplate
from server.usage import Usage, account

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
USER = [{"role": "user", "content": "Hi"}]
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
# Each kind of work in threads, by a request that causes it.
WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "template": ("/v1/chat/completions", chat()),
    "apply-template": ("/apply-template", chat()),
    "count": ("/v1/chat/completions/input_tokens", chat()),
    "tools": ("/v1/chat/completions", {**chat(), "tools": [TOOL], "tool_choice": "required"}),
    "schema": ("/v1/chat/completions", {**chat(), "response_format": FORM}),
    "long body": ("/v1/completions", {"prompt": list(range(90)) * 300}),
    "anthropic": ("/v1/messages", {"model": "m", "max_tokens": 1, "messages": USER}),
    "anthropic count": ("/v1/messages/count_tokens", {"model": "m", "messages": USER}),
    "responses": ("/v1/responses", {"input": "Hi", "text": {"format": {"type": "text"}}}),
    "embeddings": ("/v1/embeddings", {"input": ["a"]}),
}
FLOOD = 60


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not happen in time")


class Held:
    """Work that is noted when it begins, and ends when ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began: list[str] = []

    def work(self, name: str) -> str:
        self.began.append(name)
        assert self.go.wait(20)
        return name


async def of(fair: FairThreads, client: str, work: Callable[[], str]) -> str:
    account.set(client)
    return await fair.run(work)


def test_a_client_who_floods_waits_behind_one_who_asks_once() -> None:
    async def go() -> None:
        fair, held = FairThreads(Usage()), Held()
        tasks = [
            asyncio.ensure_future(of(fair, "hog", lambda name=name: held.work(name)))  # type: ignore[misc]
            for name in (f"hog {number}" for number in range(FLOOD))
        ]
        await until(lambda: len(held.began) == 2)
        await asyncio.sleep(0.05)
        assert held.began == ["hog 0", "hog 1"], "a client never has all places"
        tasks.append(asyncio.ensure_future(of(fair, "honest", lambda: held.work("honest"))))
        await until(lambda: len(held.began) == 3)
        assert held.began[-1] == "honest"
        held.go.set()
        await asyncio.gather(*tasks)
        assert len(held.began) == FLOOD + 1

    run(go())


def test_of_many_clients_the_one_who_took_least_is_next() -> None:
    async def go() -> None:
        usage, held = Usage(), Held()
        fair = FairThreads(usage)
        usage.charge("hog", 30.0)
        one_ends = Held()
        tasks = [asyncio.ensure_future(of(fair, "a", lambda: one_ends.work("a")))]
        for client in ("b", "c", "d", "hog", "hog", "e"):
            work = asyncio.ensure_future(of(fair, client, lambda c=client: held.work(c)))  # type: ignore[misc]
            tasks.append(work)
            await asyncio.sleep(0.01)
        assert len(held.began) == 3
        one_ends.go.set()
        await until(lambda: len(held.began) == 4)
        held.go.set()
        await asyncio.gather(*tasks)
        assert held.began[3:] == ["e", "hog", "hog"]

    run(go())


def test_processor_time_is_charged_and_waiting_is_not() -> None:
    def spin() -> str:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        time.sleep(0.2)
        return ""

    async def go() -> None:
        usage = Usage()
        await of(FairThreads(usage), "a", spin)
        assert 0.09 < usage.of("a") < 0.19

    run(go())


def test_work_whose_client_left_keeps_its_place_until_it_ends() -> None:
    async def go() -> None:
        fair, held = FairThreads(Usage()), Held()
        gone = [asyncio.ensure_future(of(fair, "hog", lambda: held.work("gone"))) for _ in range(5)]
        await until(lambda: len(held.began) == 2)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        next_one = asyncio.ensure_future(of(fair, "hog", lambda: held.work("next")))
        await asyncio.sleep(0.05)
        assert held.began == ["gone", "gone"], "two threads run on"
        held.go.set()
        assert await next_one == "next"
        assert held.began == ["gone", "gone", "next"]

    run(go())


def test_the_time_of_one_begins_with_its_turn() -> None:
    async def go() -> None:
        fair, held = FairThreads(Usage()), Held()
        account.set("a")
        first = [asyncio.ensure_future(fair.run(lambda: held.work("a"))) for _ in range(2)]
        waiting = asyncio.ensure_future(fair.run(lambda: "done", seconds=0.2))
        await asyncio.sleep(0.4)
        assert not waiting.done()
        held.go.set()
        assert await waiting == "done"
        await asyncio.gather(*first)
        slow = Held()
        with pytest.raises(TimeoutError):
            await fair.run(lambda: slow.work("b"), seconds=0.05)
        slow.go.set()

    run(go())


def test_an_error_is_the_caller_s_and_gives_the_place_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def go() -> None:
        fair = FairThreads(Usage())
        for _ in range(10):
            with pytest.raises(ValueError, match="no"):
                await fair.run(fail)
        assert await in_turn(lambda: 3) == 3

    run(go())


@asynccontextmanager
async def clients(*names: str) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """Clients of one server, each with a key of its own."""
    app = create_app(FakeEngine(), ApiOptions(api_keys=names, max_queue=1000))
    transport = httpx.ASGITransport(app)
    made = {
        name: httpx.AsyncClient(
            transport=transport, base_url="http://x", headers={"authorization": f"Bearer {name}"}
        )
        for name in names
    }
    try:
        yield made
    finally:
        for client in made.values():
            await client.aclose()


@pytest.mark.parametrize("kind", WORK)
def test_each_kind_of_work_is_done_in_turn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    go_on = threading.Event()
    real = FairThreads.run

    async def noting(fair: FairThreads, function: Any, seconds: float = 1e9) -> Any:
        client = account.get()

        def work() -> Any:
            order.append(client)
            assert go_on.wait(20)
            return function()

        return await real(fair, work, seconds)

    monkeypatch.setattr(FairThreads, "run", noting)

    async def go() -> None:
        async with clients("hog", "honest") as by_name:
            path, body = WORK[kind]
            raw = json.dumps(body).encode()

            async def ask(name: str) -> httpx.Response:
                headers = {"content-type": "application/json"}
                return await by_name[name].post(path, content=raw, headers=headers)

            flood = [asyncio.ensure_future(ask("hog")) for _ in range(FLOOD)]
            await until(lambda: len(order) == fair_queue._MOST_OF_ONE)
            await asyncio.sleep(0.1)
            honest = asyncio.ensure_future(ask("honest"))
            await until(lambda: len(order) > fair_queue._MOST_OF_ONE)
            first, second = order[0], order[2]
            assert first != second, "the honest client is next, though sixty came before"
            go_on.set()
            answers = await asyncio.gather(honest, *flood)
            assert {answer.status_code for answer in answers} == {200}

    run(go())


def test_rendering_is_charged_to_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    real = ChatTemplate.parts

    def slow(*args: Any, **kwargs: Any) -> Any:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        return real(*args, **kwargs)

    monkeypatch.setattr(ChatTemplate, "parts", slow)

    async def go() -> None:
        app = create_app(engine, ApiOptions(api_keys=("secret",)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            header = {"authorization": "Bearer secret"}
            await client.post("/v1/chat/completions", json=chat(), headers=header)
        (charged,) = engine.usage._clients
        assert charged.startswith("key")
        assert engine.usage.of(charged) > 0.04

    run(go())
