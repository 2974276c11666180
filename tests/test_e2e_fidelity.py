"""The same two files see better with llama.cpp's faults undone than without."""

from __future__ import annotations

from pathlib import Path

import openai
from asking import ask
from live import LiveServer

from scripts.demo.heldout import Case, cases, is_right


def right(url: str, asked: list[Case]) -> int:
    """How many questions a server answers rightly."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        replies = [
            client.chat.completions.create(
                model="demo",
                messages=case.messages(),  # type: ignore[arg-type]
                temperature=0,
                max_tokens=64,
            )
            for case in asked
        ]
    said = [reply.choices[0].message.content or "" for reply in replies]
    return sum(map(is_right, asked, said))


def test_the_repairs_are_worth_many_answers(demo: LiveServer, tmp_path: Path) -> None:
    asked = cases(25, seed=88_000_000)[:50]
    with LiveServer(tmp_path, "--llava-fix", "off") as server:
        unrepaired = right(server.url, asked)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
            (model,) = client.models.list().data
        assert "class_position" in model.model_extra["meta"]["vision"]["faults"]
        assert model.model_extra["meta"]["vision"]["undone"] == []
    repaired = right(demo.url, asked)
    assert repaired >= unrepaired + 10, (repaired, unrepaired)


def test_models_say_what_was_found_and_undone(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    vision = model.model_extra["meta"]["vision"]
    assert vision["faults"] == ["class_position", "dropped_patch", "skipped_layer"]
    assert vision["undone"] == vision["faults"]
    assert ask(client, "Hello!").choices[0].message.content
