"""smolagents: a model with pictures, and an agent that calls functions."""

from __future__ import annotations

import base64
import io
from typing import Any, ClassVar

import pytest
from PIL import Image
from smolagents import OpenAIModel, Tool


class CountShapes(Tool):
    """A function of the agent's."""

    name = "count_shapes"
    description = "How many shapes of a colour there are."
    inputs: ClassVar[Any] = {
        "colour": {"type": "string", "description": "red or blue", "enum": ["red", "blue"]}
    }
    output_type = "string"

    def forward(self, colour: str) -> str:
        return f"one {colour} circle"


@pytest.fixture
def model(url: str) -> Any:
    return OpenAIModel("demo", api_base=f"{url}/v1", api_key="unused", temperature=0)


@pytest.fixture
def asked(png: str) -> Any:
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    content = [
        {"type": "image", "image": picture},
        {"type": "text", "text": "What colour is the circle?"},
    ]
    return [{"role": "user", "content": content}]


def test_a_picture(model: Any, asked: Any) -> None:
    answer = model.generate(asked, max_tokens=50)
    assert "red" in str(answer.content)
    assert answer.token_usage.output_tokens > 0


def test_stream(model: Any, asked: Any) -> None:
    text = "".join(piece.content or "" for piece in model.generate_stream(asked, max_tokens=50))
    assert "red" in text


def test_stop_sequences_of_its_code_agent(model: Any, asked: Any) -> None:
    answer = model.generate(asked, stop_sequences=["Observation:", "Calling tools:"], max_tokens=50)
    assert "red" in str(answer.content)


def test_functions(model: Any, asked: Any) -> None:
    answer = model.generate(
        asked, tools_to_call_from=[CountShapes()], tool_choice="required", max_tokens=200
    )
    call = model.parse_tool_calls(answer).tool_calls[0]
    assert call.function.name == "count_shapes"
    assert call.function.arguments["colour"] in ("red", "blue")
