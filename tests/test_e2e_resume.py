"""An engine that is lost or stuck is replaced, and nobody who waits for an answer notices."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import httpx
import openai
import pytest
from asking import BLUE, GREEN, RED, ask, shape, user
from live import LiveServer, gone

from scripts.hardening.crowd import request
from server.engine_client.requests import MOST_ALONE, STUCK_ALONE

# What the demo model is sure of: llama.cpp's last bits change with what else is in a batch, and
# where two tokens are equally likely, so would the text, whether an engine dies or not.
QUESTIONS: list[dict[str, Any]] = [
    {"content": ("Describe the picture.", shape("circle", RED)), "temperature": 0},
    {"content": ("Describe the picture.", shape("square", BLUE)), "temperature": 0},
    {"content": ("Describe the picture.", shape("circle", GREEN)), "temperature": 0},
    {"content": ("Describe it.", shape("square", RED)), "temperature": 0.3, "seed": 5},
]
DIGITS = "0123456789"
ENDLESS = {"content": ("Go on and on.",), "extra_body": {"ignore_eos": True}, "max_tokens": 1500}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("resume")
    with LiveServer(folder, "--parallel", "4", "--stall-timeout", "3") as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class Reader(threading.Thread):
    """Reads one stream to its end."""

    def __init__(self, client: openai.OpenAI, question: dict[str, Any]) -> None:
        super().__init__()
        self.client, self.question = client, question
        self.texts: list[tuple[int, str]] = []
        self.usage: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        options = {name: value for name, value in self.question.items() if name != "content"}
        try:
            for chunk in self.client.chat.completions.create(
                model="demo",
                messages=[user(*self.question["content"])],  # type: ignore[list-item]
                stream=True,
                stream_options={"include_usage": True},
                **options,
            ):
                self.texts += [(each.index, each.delta.content or "") for each in chunk.choices]
                self.usage = chunk.usage
        except openai.APIError as error:
            self.error = error

    @property
    def begun(self) -> bool:
        """Every choice has said more than one word."""
        said = Counter(index for index, text in self.texts if text)
        return len(said) == self.question.get("n", 1) and min(said.values()) > 1

    def answer(self) -> tuple[str, int, int]:
        self.join(60)
        assert self.error is None
        said = "".join(text for _, text in sorted(self.texts, key=itemgetter(0)))
        return said, self.usage.prompt_tokens, self.usage.completion_tokens


def metric(server: LiveServer, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    return float(line.rpartition(" ")[2])


def restarts(server: LiveServer) -> int:
    return int(metric(server, "llava_engine_restarts_total"))


def begin_slowly(
    client: openai.OpenAI, engine: int, questions: list[dict[str, Any]] = QUESTIONS
) -> list[Reader]:
    """All questions, the engine stopped when each has begun to be answered and none has ended."""
    deadline = time.monotonic() + 60
    for _ in range(10):
        os.kill(engine, signal.SIGSTOP)
        readers = [Reader(client, question) for question in questions]
        time.sleep(0.5)
        while not all(reader.begun for reader in readers):
            assert time.monotonic() < deadline, "not all of them are answered"
            os.kill(engine, signal.SIGCONT)
            time.sleep(0.005)
            os.kill(engine, signal.SIGSTOP)
            time.sleep(0.05)
        if all(reader.is_alive() for reader in readers):
            return readers
        os.kill(engine, signal.SIGCONT)
    raise AssertionError("the answers always come too fast")


def test_no_client_notices_a_killed_engine(server: LiveServer, client: openai.OpenAI) -> None:
    undisturbed = [Reader(client, question).answer() for question in QUESTIONS]
    before, engine = restarts(server), server.engine_pid()
    readers = begin_slowly(client, engine)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(ask, client, "Say something.", max_tokens=8)
        os.kill(engine, signal.SIGKILL)
        assert gone(engine)
        assert late.result(60).usage.completion_tokens > 0, "who comes meanwhile waits"
    assert [reader.answer() for reader in readers] == undisturbed
    assert restarts(server) == before + 1
    assert server.engine_pid() != engine


def test_grammars_schemas_and_several_choices_go_on_in_the_next_engine(
    server: LiveServer, client: openai.OpenAI
) -> None:
    """What they say is forced: nothing of it may be lost, said twice, or left out."""
    whole = DIGITS * 8
    schema = {"name": "digits", "schema": {"type": "string", "const": whole}}
    grammar = {"grammar": f'root ::= "{whole}"'}
    questions: list[dict[str, Any]] = [
        {"content": ("Count.",), "extra_body": grammar, "n": 2, "temperature": 1},
        {"content": ("Count.",), "response_format": {"type": "json_schema", "json_schema": schema}},
    ]
    before, engine = restarts(server), server.engine_pid()
    readers = begin_slowly(client, engine, questions)
    os.kill(engine, signal.SIGKILL)
    assert [reader.answer()[0] for reader in readers] == [whole * 2, f'"{whole}"']
    assert restarts(server) == before + 1


def test_an_engine_that_does_not_move_is_replaced(
    server: LiveServer, client: openai.OpenAI
) -> None:
    engine, before = server.engine_pid(), restarts(server)
    os.kill(engine, signal.SIGSTOP)
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, client, shape("circle", RED), "What colour is the circle?")
        for _ in range(20):
            health = httpx.get(f"{server.url}/health", timeout=2)
            assert health.status_code == 200, "alive, whatever the engine does"
            time.sleep(0.05)
        # 8 s of --stall-timeout, and the watch's second; the rest is what a busy machine takes.
        while "no sign of life" not in server.log:
            assert time.monotonic() < start + 15, "nobody notices"
            time.sleep(0.1)
        assert "red" in waiting.result(60).choices[0].message.content
    assert restarts(server) == before + 1
    assert gone(engine)


def test_a_reader_that_stops_leaves_the_engine_and_may_read_on(
    server: LiveServer, client: openai.OpenAI
) -> None:
    """What it is to say is forced: nothing of it may be lost, or said twice."""
    whole = DIGITS * 70
    body = {"messages": [user("Count.")], "stream": True, "grammar": f'root ::= "{whole}"'}
    aborted = server.log.count("finish=abort")
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(60)
        line.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        line.sendall(request(body))
        wait_running(server)
        wait_running(server, 0)
        assert metric(server, "llava_requests_paused_total") == 1
        assert "red" in ask(client, shape("circle", RED), "What colour?").choices[0].message.content
        got = b""
        while b"[DONE]" not in got:
            piece = line.recv(65536)
            assert piece, "cut off"
            got += piece
    assert "".join(re.findall(r'"content":"([^"]*)"', got.decode())) == whole
    assert server.log.count("finish=abort") == aborted


def test_a_request_that_kills_engines_is_given_up_and_others_go_on(
    server: LiveServer, client: openai.OpenAI
) -> None:
    """The poison is played by us: whenever it runs, the engine dies.

    After two losses if it came no further in between, after MOST_ALONE if it did.
    """
    before = restarts(server)
    poison = Reader(client, ENDLESS)
    for number in range(1, MOST_ALONE + 1):
        wait_running(server)
        os.kill(server.engine_pid(), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while restarts(server) < before + number:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        wait_for(lambda: engine_up(server) or poison.error is not None)
        if poison.error is not None:
            break
    poison.join(60)
    lost = re.search(r"the engine was lost (\d) times", str(poison.error))
    assert lost
    assert STUCK_ALONE <= int(lost[1]) <= MOST_ALONE
    assert "red" in ask(client, shape("circle", RED), "What colour?").choices[0].message.content


def engine_up(server: LiveServer) -> bool:
    return metric(server, "llava_engine_up") == 1


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_running(server: LiveServer, count: int = 1) -> None:
    deadline = time.monotonic() + 30
    while metric(server, "llava_num_requests_running") != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
