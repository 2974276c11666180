"""A real server and the real OpenAI client: streams, their errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import httpx
import openai
import pytest
from fakes import FakeEngine, chat, image_part, serving, text_part, wait_for
from hypothesis import given
from hypothesis import strategies as st

from server.api.generate.events import event
from server.api.openai.chat import ChatReply
from server.decoders.pool import DecoderPool, Done, Work
from server.errors import ContextLengthExceeded, EngineUnavailable
from server.messages import FinishReason

PATH = "/v1/chat/completions"
ENDED = 'llava_request_success_total{{finished_reason="{}",model_name="fake-llava"}} {}.0'


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def events(text: str) -> list[Any]:
    """The events of a stream, [DONE] checked and left away."""
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@given(st.text(), st.integers(0, 7))
def test_a_chunk_of_text_is_what_any_chunk_is(text: str, index: int) -> None:
    reply = ChatReply('chatcmpl-"1"', "a model: é")
    assert reply.text(text, index) == event(reply.delta({"content": text}, index=index))


def collect(stream: Any, seen: list[str]) -> None:
    """Put the texts of ``stream`` into ``seen``, so that they outlive an error."""
    for chunk in stream:
        seen.append(chunk.choices[0].delta.content or "")


def test_stream_on_the_wire() -> None:
    body = chat([image_part(), text_part("What?")], stream=True)
    body["stream_options"] = {"include_usage": True}
    with serving(FakeEngine(texts=("A ", "\u2028é", ""))) as url:
        response = httpx.post(url + PATH, json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.content.isascii(), "some clients end lines at U+2028"
    chunks = events(response.text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "A "},
        {"content": "\u2028é"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert reasons == [None, None, None, "stop"]
    assert chunks[-2]["images"][0]["tokens"] == 64
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens_details"]["image_tokens"] == 64
    assert chunks[-1]["usage"]["total_tokens"] == 77


def test_openai_client_reads_answers_and_streams() -> None:
    messages: Any = [{"role": "user", "content": [image_part(), text_part("What?")]}]
    with serving(FakeEngine(finish=FinishReason.LENGTH)) as url, client(url) as sdk:
        whole = sdk.chat.completions.create(model="any", messages=messages)
        stream = sdk.chat.completions.create(model="any", messages=messages, stream=True)
        chunks = list(stream)
    assert whole.choices[0].message.content == "A red circle."
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 74
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "A red circle."
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for it"


def test_openai_client_streams_side_by_side() -> None:
    async def ask(sdk: openai.AsyncOpenAI) -> str:
        stream = await sdk.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def ask_all(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            return await asyncio.gather(*(ask(sdk) for _ in range(8)))

    engine = FakeEngine(token_seconds=0.05)
    with serving(engine) as url:
        answers = asyncio.run(ask_all(url))
    assert answers == ["A red circle."] * 8
    assert engine.most_running > 1, "they must not wait for each other"
    assert len(set(engine.ids)) == 8


def test_error_before_the_first_byte_is_an_http_error() -> None:
    engine = FakeEngine(error=ContextLengthExceeded("too long", param="messages"))
    with (
        serving(engine) as url,
        client(url) as sdk,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        sdk.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (EngineUnavailable("the engine was lost"), "engine_unavailable", "the engine was lost"),
        (RuntimeError("a secret"), "internal_error", "internal server error"),
    ],
)
def test_error_in_mid_stream_is_raised_by_the_sdk(error: Exception, code: str, text: str) -> None:
    engine = FakeEngine(error=error, error_after=2)
    seen: list[str] = []
    with serving(engine) as url, client(url) as sdk:
        stream = sdk.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match=text) as caught:
            collect(stream, seen)
        engine.error = None
        again = sdk.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hi"}]
        )
        metrics = httpx.get(url + "/metrics").text
    assert "".join(seen) == "A red"
    assert f'llava_requests_failed_total{{code="{code}"' in metrics
    assert (
        'llava_request_success_total{finished_reason="abort",model_name="fake-llava"} 0.0'
        in metrics
    )
    assert caught.value.code == code
    assert "secret" not in str(caught.value)
    assert again.choices[0].message.content == "A red circle."


def test_engine_that_ends_without_a_reason_is_an_error() -> None:
    with serving(FakeEngine(texts=())) as url:
        assert httpx.post(url + PATH, json=chat()).status_code == 500


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("slow", ["admit_seconds", "token_seconds"])
def test_client_that_leaves_aborts_its_request(stream: bool, slow: str) -> None:
    engine = FakeEngine(texts=("x",) * 1000, **{slow: 0.3})
    if slow == "admit_seconds":
        engine.admit_seconds = 60
    with serving(engine) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url + PATH, json=chat(stream=stream), timeout=0.2)
        wait_for(lambda: engine.aborted == engine.ids)
        engine.texts, engine.admit_seconds, engine.token_seconds = ("ok",), 0, 0
        assert httpx.post(url + PATH, json=chat()).status_code == 200
        metrics = httpx.get(url + "/metrics").text
    assert ENDED.format("stop", 1) in metrics


def test_stream_closed_early_by_the_sdk_aborts_its_request() -> None:
    engine = FakeEngine(texts=("x",) * 1000, token_seconds=0.02)
    with serving(engine) as url, client(url) as sdk:
        stream = sdk.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        stream.close()
        wait_for(lambda: engine.aborted == engine.ids)
        wait_for(lambda: ENDED.format("abort", 1) in httpx.get(url + "/metrics").text)


def test_client_that_leaves_in_the_middle_of_its_body_harms_nobody() -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(
                f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode()
            )
        assert httpx.post(url + PATH, json=chat()).status_code == 200
    assert len(engine.ids) == 1


def test_template_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr("server.api.generate.dialog._TEMPLATE_SECONDS", 0.05)
    monkeypatch.setattr("server.prompt.ChatTemplate.parts", lambda *_, **__: released.wait(10))
    with serving(FakeEngine()) as url:
        response = httpx.post(url + PATH, json=chat())
        long = httpx.post(url + PATH, json=chat("a" * 200_000))
        released.set()
    assert response.status_code == 500
    assert "chat template" in response.json()["error"]["message"]
    # A conversation of that length is what takes the time: the client can send a shorter one.
    assert (long.status_code, long.json()["error"]["param"]) == (400, "messages")


def test_others_are_served_while_a_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding, go_on = threading.Event(), threading.Event()
    real = DecoderPool.run

    async def slow(pool: DecoderPool, work: Work, client: str) -> Done:
        decoding.set()
        await asyncio.to_thread(go_on.wait, 10)
        return await real(pool, work, client)

    monkeypatch.setattr(DecoderPool, "run", slow)
    answers: list[httpx.Response] = []
    with serving(FakeEngine()) as url:
        body = chat([image_part()])
        thread = threading.Thread(target=lambda: answers.append(httpx.post(url + PATH, json=body)))
        thread.start()
        try:
            assert decoding.wait(10)
            assert httpx.get(url + "/health").status_code == 200
            assert httpx.post(url + PATH, json=chat()).status_code == 200
            assert answers == []
        finally:
            go_on.set()
            thread.join(10)
    assert answers[0].status_code == 200
