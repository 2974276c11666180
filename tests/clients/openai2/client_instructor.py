"""instructor: models from answers, by tools, by JSON schema, and in parts."""

from __future__ import annotations

from typing import Any, Literal

import instructor
import openai
import pytest
from pydantic import BaseModel

QUESTION = "What colour is the circle?"


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"]


@pytest.fixture
def plain(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def asked(data_url: str) -> Any:
    image = {"type": "image_url", "image_url": {"url": data_url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_modes(plain: openai.OpenAI, asked: Any, mode: str) -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode[mode])
    options = {"temperature": 0, "max_tokens": 200, "max_retries": 1}
    answer = client.chat.completions.create(
        model="demo", messages=asked, response_model=Report, **options
    )
    assert isinstance(answer, Report)


def test_in_parts(plain: openai.OpenAI, asked: Any) -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
    *_, last = client.chat.completions.create_partial(
        model="demo", messages=asked, response_model=Report, temperature=0, max_tokens=200
    )
    assert last.colour in ("red", "green", "blue")


def test_openai_2_itself(plain: openai.OpenAI, asked: Any) -> None:
    assert openai.__version__.startswith("2.")
    answer = plain.chat.completions.create(model="demo", messages=asked, temperature=0)
    assert "red" in answer.choices[0].message.content
    with plain.responses.stream(model="demo", input=QUESTION) as stream:
        assert stream.get_final_response().status in ("completed", "incomplete")
