"""No body of four megabytes holds the event loop: the longest turn of it, in processor time."""

from __future__ import annotations

import asyncio
import asyncio.events
import gc
import json
import time
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, engine_ready

from server.api.app import create_app
from server.api.options import ApiOptions
from server.messages import Tokenized

SIZE = 4 * 1024 * 1024 - 4000
MOST = 0.1  # seconds; /health waits no longer
TEXTS = {
    "words": "ab " * (SIZE // 3),
    "one letter": "a" * SIZE,
    "emoji": "\U0001f600" * (SIZE // 4),
    "control tokens": "<|im_end|>" * (SIZE // 10),
    "escapes": '"\\\n' * (SIZE // 6),
}
IDS = np.full(SIZE // 2, 97, np.int32).tobytes()


class QuickEngine(FakeEngine):
    """Has its answers ready, as the engine process has them for the web process."""

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Tokenized:
        return Tokenized("ask", IDS, {97: b"\xf0\x9f\x98\x80"})

    async def detokenize(self, tokens: tuple[int, ...]) -> Tokenized:
        return Tokenized("ask", IDS, {97: b"\x01\xff long piece"})


def requests(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    user = [{"role": "user", "content": text}]
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": text}}]
    return {
        "tokenize": ("/tokenize", {"content": text}),
        "tokenize with pieces": ("/tokenize", {"content": text, "with_pieces": True}),
        "vLLM's tokenize": ("/tokenize", {"prompt": text, "return_token_strs": True}),
        "apply-template": ("/apply-template", {"messages": user}),
        "count": ("/v1/chat/completions/input_tokens", {"messages": user}),
        "Anthropic's count": ("/v1/messages/count_tokens", {"model": "m", "messages": user}),
        "Responses' count": ("/v1/responses/input_tokens", {"input": text}),
        "embeddings": ("/v1/embeddings", {"input": text}),
        "chat": ("/v1/chat/completions", {"messages": user, "max_tokens": 1}),
        "arguments": (
            "/apply-template",
            {"messages": [{"role": "assistant", "tool_calls": calls}]},
        ),
        "messages": ("/v1/messages", {"model": "m", "messages": user, "max_tokens": 1}),
        "responses": ("/v1/responses", {"input": text, "max_output_tokens": 16}),
        "completions": ("/v1/completions", {"prompt": text, "max_tokens": 1}),
        "a name": (
            "/v1/chat/completions",
            {"messages": [{**user[0], "content": "a", "name": text}]},
        ),
        "a field": ("/v1/chat/completions", {"messages": [], "user": text}),
    }


# Many values in place of a long one.
MANY: dict[str, tuple[str, dict[str, Any]]] = {
    "detokenize": ("/detokenize", {"tokens": [97] * 390_000}),
    "ids": ("/v1/completions", {"prompt": [97] * 390_000, "max_tokens": 1}),
    "ids to embed": ("/v1/embeddings", {"input": [97] * 390_000}),
    "inputs to embed": ("/v1/embeddings", {"input": ["a"] * 2000}),
    "messages": ("/apply-template", {"messages": [{"role": "user", "content": "ab"}] * 4096}),
    "parts": (
        "/apply-template",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 4096}]},
    ),
}


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of processor time of the loop's longest turn."""
    found = [0.0]
    real = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        real(handle)
        found[0] = max(found[0], time.thread_time() - began)

    monkeypatch.setattr(asyncio.events.Handle, "_run", timed)
    return found


def turns(path: str, body: dict[str, Any], longest: list[float]) -> float:
    content = json.dumps(body, ensure_ascii=False).encode()
    # What other tests left is no turn's business: the server, too, freezes what it has loaded.
    gc.collect()
    gc.freeze()

    async def go() -> None:
        ready = engine_ready(special_tokens=("<|im_end|>", "<|im_start|>"))
        app = create_app(QuickEngine(ready=ready), ApiOptions())
        await asyncio.sleep(0)
        longest[0] = 0.0
        sent = iter([{"type": "http.request", "body": content, "more_body": False}])
        kind = [(b"content-type", b"application/json"), (b"host", b"x")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": kind}
        scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "http_version": "1.1"}
        scope |= {"scheme": "http", "root_path": "", "server": ("x", 1), "raw_path": path.encode()}
        statuses: list[int] = []

        async def receive() -> Any:
            message = next(sent, None)
            return message if message is not None else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if "status" in message:
                statuses.append(message["status"])

        await app({**scope, "state": {}, "asgi": {"version": "3.0"}}, receive, send)
        assert statuses
        assert statuses[0] < 500

    asyncio.run(go())
    return longest[0]


@pytest.mark.parametrize("text", TEXTS)
def test_a_long_text_anywhere(text: str, longest: list[float]) -> None:
    for name, (path, body) in requests(TEXTS[text]).items():
        assert turns(path, body, longest) < MOST, name


@pytest.mark.parametrize("name", MANY)
def test_many_values(name: str, longest: list[float]) -> None:
    path, body = MANY[name]
    assert turns(path, body, longest) < MOST


def test_the_longest_turn_is_seen(longest: list[float]) -> None:
    async def go() -> None:
        end = time.thread_time() + 0.15
        while time.thread_time() < end:
            pass

    asyncio.run(go())
    assert longest[0] > MOST
