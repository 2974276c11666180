"""Sampling, structured output and log-probabilities through a real server and OpenAI's client."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
from asking import RED, ask, shape, user
from live import LiveServer

QUESTION = "What is in the picture?"
# Two letters, over and over: between many tokens a logit's last bits would decide now and then,
# and they depend on how the prompt was computed and where its cells lie.
LETTERS = {"grammar": "root ::= [ab]{30}"}
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "shapes": {"type": "array", "items": {"enum": ["circle", "square"]}, "maxItems": 2},
        "sure": {"type": "boolean"},
    },
    "required": ["colour", "shapes", "sure"],
    "additionalProperties": False,
}


def text(reply: Any) -> str:
    return reply.choices[0].message.content or ""


def test_an_answer_fits_its_schema_and_sees_the_picture(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA}}
    reply = ask(client, shape("circle", RED), QUESTION, response_format=wanted, max_tokens=200)
    assert reply.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text(reply)), SCHEMA)


def test_the_sdk_parses_structured_output(client: openai.OpenAI) -> None:
    from pydantic import BaseModel, Field

    class Seen(BaseModel):
        letter: str = Field(pattern="^[a-c]$")
        sure: bool

    reply = client.chat.completions.parse(
        model="demo",
        messages=[user(QUESTION)],
        response_format=Seen,
        max_tokens=100,  # type: ignore[list-item]
    )
    seen = reply.choices[0].message.parsed
    assert seen is not None
    assert seen.letter in "abc"


def test_a_grammar_of_the_clients(client: openai.OpenAI) -> None:
    grammar = {"grammar": 'root ::= ("yes" | "no") " " [0-9]{3}'}
    reply = ask(client, QUESTION, extra_body=grammar, temperature=1)
    assert text(reply).split(" ")[0] in ("yes", "no")
    assert text(reply)[-3:].isdigit()
    chunks = client.chat.completions.create(
        model="demo",
        messages=[user(QUESTION)],
        extra_body=grammar,
        stream=True,  # type: ignore[list-item]
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed[-3:].isdigit()


def test_seeds_make_answers_repeatable(client: openai.OpenAI) -> None:
    def draw(seed: int | None) -> str:
        return text(ask(client, QUESTION, temperature=2, seed=seed, extra_body=LETTERS))

    assert draw(3) == draw(3)
    assert len({draw(seed) for seed in (3, 4, 5)}) > 1
    assert len({draw(None) for _ in range(3)}) > 1


def test_choices_differ_by_their_seeds_and_repeat_with_them(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 2, "seed": 7, "extra_body": LETTERS}
    reply = ask(client, shape("circle", RED), QUESTION, n=3, **options)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    alone = ask(client, shape("circle", RED), QUESTION, **options)
    assert reply.usage.prompt_tokens == alone.usage.prompt_tokens
    assert text(alone) == texts[0]


def test_temperature_0_is_greedy_whatever_stands_beside_it(client: openai.OpenAI) -> None:
    plain = ask(client, shape("circle", RED), QUESTION, logprobs=True, top_logprobs=1)
    cut = ask(client, shape("circle", RED), QUESTION, top_p=0.1, seed=1, extra_body={"top_k": 3})
    assert text(plain) == text(cut)
    for one in plain.choices[0].logprobs.content:
        assert one.token == one.top_logprobs[0].token


def test_biases_ban_and_force(client: openai.OpenAI, demo: LiveServer) -> None:
    words = text(ask(client, shape("circle", RED), QUESTION))
    assert "red" in words
    banned = {"logit_bias": [[" red", False], ["red", False]]}
    assert "red" not in text(ask(client, shape("circle", RED), QUESTION, extra_body=banned))
    ids = httpx.post(f"{demo.url}/tokenize", json={"content": "7"}).json()["tokens"]
    forced = ask(client, QUESTION, logit_bias={str(ids[-1]): 100}, max_tokens=5)
    assert text(forced).replace(" ", "") == "77777"


def test_log_probabilities_of_a_stream_spell_the_text(client: openai.OpenAI) -> None:
    whole = ask(client, shape("circle", RED), QUESTION, logprobs=True, top_logprobs=2)
    tokens = whole.choices[0].logprobs.content
    spelt = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert spelt.removeprefix(" ") == text(whole)
    stop = text(whole).split()[-2]
    chunks = client.chat.completions.create(
        model="demo",
        messages=[user(shape("circle", RED), QUESTION)],  # type: ignore[list-item]
        temperature=0,
        stop=[stop],
        logprobs=True,
        stream=True,
    )
    told, said = b"", ""
    for chunk in chunks:
        choice = chunk.choices[0]
        said += choice.delta.content or ""
        if choice.logprobs is not None:
            told += b"".join(bytes(token.bytes or []) for token in choice.logprobs.content or [])
    assert stop not in said
    assert told.decode().removeprefix(" ").startswith(said)
    # The last token is told if it is shown in part: " white" where "white" is the stop string.
    assert len(told) - len(said) <= len(stop) + 1


def test_a_continued_answer_begins_where_it_was_left(client: openai.OpenAI) -> None:
    whole = text(ask(client, shape("circle", RED), "Describe the picture."))
    head, tail = whole[: len(whole) // 2].rsplit(" ", 1)[0], ""
    messages = [user(shape("circle", RED), "Describe the picture.")]
    reply = client.chat.completions.create(
        model="demo",
        messages=[*messages, {"role": "assistant", "content": head}],  # type: ignore[list-item]
        temperature=0,
        max_tokens=48,
    )
    tail = text(reply)
    assert head + tail == whole


HOSTILE: list[dict[str, Any]] = [
    {"grammar": "root ::= root"},
    {"grammar": "root ::= " + "(" * 10_000},
    {"grammar": "root ::= s\ns ::= s s | s s s | [a-z] |"},
    {"grammar": 'root ::= ((("a"{0,2000}){0,2000}){0,2000}){0,2000}'},
    {"grammar": "root ::= [^\\x00-\\U0010FFFF]"},
    {"json_schema": {"$ref": "#"}},
    {"json_schema": {"type": "string", "pattern": "^" + "(a|b|ab)*" * 30 + "$"}},
    {"json_schema": {"properties": {f"p{number}": {} for number in range(2000)}}},
    {"json_schema": {"type": "array", "minItems": 2**31}},
    {"json_schema": {"anyOf": [{"not": {}}]}},
    {"logit_bias": [[number, False] for number in range(900)]},
    {"samplers": ["xtc", "typ_p"] * 8, "xtc_probability": 1, "xtc_threshold": 0, "typical_p": 0},
    {"mirostat": 1, "mirostat_tau": 100, "mirostat_eta": 1, "dynatemp_range": 100},
    {"repeat_last_n": 2**31 - 1, "dry_penalty_last_n": 2**31 - 1, "dry_multiplier": 100},
]


def test_the_engine_survives_all_that_it_is_asked(demo: LiveServer) -> None:
    engine = demo.engine_pid()

    def post(fields: dict[str, Any]) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, **fields}
        return httpx.post(f"{demo.url}/v1/chat/completions", json=body, timeout=60)

    with ThreadPoolExecutor(4) as pool:
        for fields, response in zip(HOSTILE, pool.map(post, HOSTILE), strict=True):
            assert response.status_code in (200, 400, 500), response.text
            if response.status_code == 500:
                assert response.json()["error"]["code"] == "engine_error", fields
            if response.status_code == 400:
                assert response.json()["error"]["param"], response.text
    assert demo.engine_pid() == engine
    assert post({}).status_code == 200


def test_random_numbers_of_samplers_do_not_hang(tmp_path: Path) -> None:
    """Two servers with the same past: in one, where the cells lie changes the last bits."""
    kinds: list[dict[str, Any]] = [
        {"mirostat": 2},
        {"dry_multiplier": 0.8, "repeat_penalty": 1.3, "xtc_probability": 0.5},
        {"samplers": "edskypmxta", "adaptive_target": 0.5, "top_n_sigma": 1.5, "typical_p": 0.9},
    ]
    answers = []
    for name in ("first", "again"):
        with (
            LiveServer(tmp_path / name) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="-") as client,
        ):
            answers.append(
                [
                    text(ask(client, QUESTION, extra_body=kind | LETTERS, seed=7, temperature=1.2))
                    for kind in kinds
                ]
            )
    assert answers[0] == answers[1]
