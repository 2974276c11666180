"""The queue's bound: who is refused, how early, and that every place is given back."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, chat, image_part, serving, wait_for
from fastapi import FastAPI

import server.api.middleware.admission as gate_module
from server.api.app import create_app
from server.api.middleware.admission import Gate, Visitor
from server.api.options import ApiOptions
from server.deadline import deadline
from server.errors import Overloaded

CHAT = "/v1/chat/completions"


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


class Client:
    """One request, whose body comes piece by piece as ``give`` is called."""

    def __init__(self, app: FastAPI, path: str = CHAT) -> None:
        self.pieces: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": b"", "headers": [],
            "query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "http_version": "1.1", "scheme": "http",
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self.pieces.get, self.send))  # type: ignore[arg-type]

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        await self.reads.wait()

    def give(self, body: bytes, *, more: bool = False) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def status(self) -> int:
        await until(lambda: self.sent)
        return int(self.sent[0]["status"])

    @property
    def code(self) -> str:
        return str(json.loads(self.sent[1]["body"])["error"]["code"])


BODY = json.dumps(chat()).encode()


def test_beyond_those_who_run_and_wait_all_are_refused_before_their_body_is_read() -> None:
    engine = FakeEngine(token_seconds=0.05)

    async def go() -> None:
        app = create_app(engine, ApiOptions(max_queue=2))  # and one runs
        gate = app.state.controls.gate
        clients = [Client(app) for _ in range(3)]
        for client in clients:
            client.give(BODY)
        await until(lambda: gate.taken == 3)
        refused = Client(app)  # of which nothing has come but the head
        assert await refused.status() == 429
        assert refused.code == "queue_full"
        headers = dict(refused.sent[0]["headers"])
        assert int(headers[b"retry-after"]) >= 1
        assert len(engine.ids) <= 3
        assert [await client.status() for client in clients] == [200, 200, 200]
        await asyncio.gather(*(client.task for client in (*clients, refused)))
        assert (gate.taken, gate.in_work, gate.held) == (0, 0, 0)

    asyncio.run(go())


async def come(app: FastAPI, body: bytes, *, reads: bool = True) -> Client:
    """A client who has asked, and whose answer has begun or is a refusal."""
    client = Client(app)
    if not reads:
        client.reads.clear()
    client.give(body)
    await client.status()
    return client


def test_readers_that_stop_count_apart_and_the_first_one_goes_where_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate_module, "_STOPPED_SECONDS", 0.1)
    engine = FakeEngine(texts=("word ",) * 20)
    stream = json.dumps(chat(stream=True)).encode()

    async def go() -> None:
        app = create_app(engine, ApiOptions(max_queue=1))  # and one runs
        gate = app.state.controls.gate
        stopped = [await come(app, stream, reads=False) for _ in range(2)]
        assert await (await come(app, BODY)).status() == 429, "they may only be slow"
        await asyncio.sleep(0.2)
        assert await (await come(app, BODY)).status() == 200
        stopped += [await come(app, stream, reads=False) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert not any(client.task.done() for client in stopped)
        assert await (await come(app, BODY)).status() == 200
        await stopped[0].task  # ends in peace, without an error for the log
        assert stopped[0].sent[-1].get("more_body", True), "its answer has no end"
        assert not any(client.task.done() for client in stopped[1:])
        for client in stopped[1:]:
            client.reads.set()
        await asyncio.gather(*(client.task for client in stopped))
        assert all(client.sent[-1]["more_body"] is False for client in stopped[1:])
        assert len(engine.aborted) == 1
        await until(lambda: (gate.taken, gate.in_work, gate.held) == (0, 0, 0))

    asyncio.run(go())


def test_half_a_body_takes_no_place_and_a_whole_one_that_finds_none_is_refused() -> None:
    async def go() -> None:
        app = create_app(FakeEngine(), ApiOptions(max_queue=0))
        gate = app.state.controls.gate
        halves = [Client(app) for _ in range(20)]
        for half in halves:
            half.give(BODY[:10], more=True)
        await until(lambda: gate.held == 200)
        assert gate.taken == 0
        whole = Client(app)
        whole.give(BODY)
        assert await whole.status() == 200
        engine_is_busy = Client(app)
        engine_is_busy.give(BODY)
        await until(lambda: gate.taken == 1 or engine_is_busy.sent)
        for half in halves:
            half.give(BODY[10:])
        statuses = [await half.status() for half in halves]
        assert set(statuses) <= {200, 429}
        assert 429 in statuses
        await asyncio.gather(*(one.task for one in (whole, engine_is_busy, *halves)))
        assert (gate.taken, gate.in_work, gate.held) == (0, 0, 0)

    asyncio.run(go())


def test_all_bodies_together_have_their_bound() -> None:
    async def go() -> None:
        app = create_app(FakeEngine(), ApiOptions(max_body_bytes=1000))
        gate = app.state.controls.gate
        clients = [Client(app) for _ in range(10)]
        for client in clients:
            client.give(b" " * 900, more=True)
        await until(lambda: any(client.sent for client in clients))
        assert gate.held <= 8 * 1000
        refused = [client for client in clients if client.sent]
        assert {await client.status() for client in refused} == {429}
        assert {client.code for client in refused} == {"bodies_full"}
        for client in clients:
            client.give(BODY)
        await asyncio.gather(*(client.task for client in clients))
        assert gate.held == 0

    asyncio.run(go())


def test_all_prepared_pictures_together_have_their_bound() -> None:
    async def nothing(*_: object) -> None:
        return

    async def go() -> None:
        gate = Gate(picture_bytes=1000)
        one, two, three = (Visitor(gate, nothing, nothing) for _ in range(3))  # type: ignore[arg-type]
        one.hold(5000)  # alone it may have what its limits permit
        with pytest.raises(Overloaded) as refused:
            two.hold(1)
        assert refused.value.code == "pictures_full"
        two.leave()
        one.leave()
        three.hold(900)
        one.hold(5000)  # it goes on in the background
        assert gate.pictures == 900
        three.leave()
        three.leave()
        assert gate.pictures == 0

    asyncio.run(go())


def test_too_many_pictures_are_refused_and_given_back() -> None:
    async def go() -> None:
        app = create_app(FakeEngine(), ApiOptions())
        gate = app.state.controls.gate
        gate._picture_bytes = 1
        gate.pictures = 10
        client = Client(app)
        client.give(json.dumps(chat([image_part()])).encode())
        assert (await client.status(), client.code) == (429, "pictures_full")
        await client.task
        assert gate.pictures == 10

    asyncio.run(go())


def test_a_place_is_given_back_however_a_request_ends() -> None:
    engine = FakeEngine(texts=("word ",) * 200, token_seconds=0.02)
    with serving(engine, max_queue=0) as url, httpx.Client(base_url=url, timeout=10) as client:
        with client.stream("POST", CHAT, json=chat(stream=True)) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert client.post(CHAT, json=chat()).status_code == 429
            assert client.get("/v1/models").status_code == 200, "what needs no engine goes on"
        # The client has left in the middle of its stream.
        wait_for(lambda: engine.running == 0)
        assert client.post(CHAT, content=b"{").status_code == 400
        assert client.post(CHAT, json=chat(temperature=9)).status_code == 400
        engine.texts = ("word",)
        assert client.post(CHAT, json=chat()).status_code == 200


def test_a_request_that_ends_another_needs_no_place() -> None:
    app = create_app(FakeEngine(), ApiOptions(max_queue=-1))  # no place at all
    assert call(app, "POST", CHAT, json=chat()).status_code == 429
    assert call(app, "POST", "/v1/responses/resp_1/cancel").status_code in (400, 404)


@pytest.mark.parametrize(("seconds", "left"), [(0.0, math.inf), (5.0, 5.0)])
def test_every_request_has_its_time(seconds: float, left: float) -> None:
    engine = FakeEngine()
    seen: list[float] = []
    generate = engine.generate

    def look(*args: Any) -> Any:
        seen.append(deadline.get() - time.monotonic())
        return generate(*args)

    engine.generate = look  # type: ignore[method-assign, assignment]
    app = create_app(engine, ApiOptions(request_timeout=seconds))
    assert call(app, "POST", CHAT, json=chat()).status_code == 200
    assert seen[0] <= left
    assert seen[0] > left - 4 if seconds else seen[0] == math.inf


def test_draining_turns_requests_away_or_only_their_connections() -> None:
    app = create_app(FakeEngine(), ApiOptions())
    gate = app.state.controls.gate
    gate.drain(refuse=False)
    answer = call(app, "POST", CHAT, json=chat())
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert call(app, "GET", "/health").json()["status"] == "draining"
    gate.drain(refuse=True)
    answer = call(app, "POST", CHAT, json=chat())
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "shutting_down"
