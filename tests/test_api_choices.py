"""Several answers to one prompt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat, image_part, post_chat, serving, text_part, wait_for

from server.errors import EngineError
from server.messages import Admitted, PromptPart, TokenOutput
from server.messages.sampling import SamplingParams


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]


def test_each_has_its_index_and_the_prompt_counts_once() -> None:
    engine = FakeEngine(texts=("Hi", "!"))
    answer = post_chat(engine, chat([text_part("a"), image_part()], n=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hi!"] * 3
    assert answer["usage"]["prompt_tokens"] == 74
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["total_tokens"] == 80
    assert len(answer["images"]) == 1
    assert len(set(engine.ids)) == 3
    assert engine.parts[0] == engine.parts[1] == engine.parts[2]


@pytest.mark.parametrize(
    ("seed", "seeds"), [(5, [5, 6]), (2**32 - 2, [2**32 - 2, 0]), (None, [None, None])]
)
def test_seeds_differ_from_choice_to_choice(seed: int | None, seeds: list[int | None]) -> None:
    engine = FakeEngine()
    post_chat(engine, chat(n=2, seed=seed))
    assert [params.seed for params in engine.sampling] == seeds


def test_a_stream_tells_all_of_them_and_ends_once() -> None:
    engine = FakeEngine(texts=("a", "b"), token_seconds=0.001)
    body = chat([image_part()], n=2, stream=True, stream_options={"include_usage": True})
    text = post_chat(engine, body).text
    told: dict[int, str] = {0: "", 1: ""}
    ends, pictures = [], []
    for chunk in events(text)[:-1]:
        (choice,) = chunk["choices"]
        told[choice["index"]] += choice["delta"].get("content") or ""
        if choice["finish_reason"]:
            ends.append(choice["index"])
        pictures += chunk.get("images", [])
    assert told == {0: "ab", 1: "ab"}
    assert sorted(ends) == [0, 1]
    assert len(pictures) == 1
    assert events(text)[-1]["usage"]["completion_tokens"] == 4
    assert text.endswith("data: [DONE]\n\n")
    assert text.count("[DONE]") == 1


@dataclass
class SecondFails(FakeEngine):
    """The second choice cannot be had; ``late``: it is admitted first."""

    late: bool = False

    async def generate(
        self, parts: tuple[PromptPart, ...], sampling: SamplingParams, request_id: str
    ) -> AsyncIterator[Admitted | TokenOutput]:
        second = len(self.ids) == 1
        async for output in super().generate(parts, sampling, request_id):
            if second and (not self.late or isinstance(output, TokenOutput)):
                raise EngineError("no")
            yield output


@pytest.mark.parametrize("late", [False, True])
def test_when_one_fails_the_others_end(late: bool) -> None:
    engine = SecondFails(token_seconds=0.05, late=late)
    response = post_chat(engine, chat(n=3))
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"
    assert engine.running == 0
    assert len(engine.aborted) >= 2


def test_a_client_that_leaves_ends_all_of_them() -> None:
    engine = FakeEngine(texts=("a",) * 1000, token_seconds=0.01)
    with serving(engine) as url:
        body = chat(n=3, stream=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()  # kept: without it httpx would close the stream
            next(lines)
            wait_for(lambda: engine.running == 3)
        wait_for(lambda: engine.running == 0)
    assert len(engine.aborted) == 3
