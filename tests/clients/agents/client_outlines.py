"""outlines: its OpenAI, vLLM and SGLang models, whose fields for constraints differ."""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import openai
import outlines
import pytest
from outlines.inputs import Image
from PIL import Image as Pictures
from pydantic import BaseModel


class Report(BaseModel):
    """Report the colour."""

    colour: Literal["red", "green", "blue"]


@pytest.fixture
def client(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def asked(png: str) -> Any:
    picture = Pictures.open(io.BytesIO(base64.b64decode(png)))
    return ["What colour is the circle?", Image(picture)]


@pytest.mark.parametrize("kind", ["openai", "vllm", "sglang"])
def test_a_schema(kind: str, client: Any, asked: Any) -> None:
    model = getattr(outlines, f"from_{kind}")(client, "demo")
    assert Report.model_validate_json(model(asked, Report, temperature=0))


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_regular_expression_and_a_choice(kind: str, client: Any, asked: Any) -> None:
    model = getattr(outlines, f"from_{kind}")(client, "demo")
    assert len(model(asked, outlines.regex("[0-9]{3}"))) == 3
    assert model(asked, Literal["red", "blue"], temperature=0) in ("red", "blue")


def test_a_grammar(client: Any, asked: Any) -> None:
    model = outlines.from_vllm(client, "demo")
    assert model(asked, outlines.cfg('?start: "red" | "blue"')) in ("red", "blue")


def test_stream(client: Any, asked: Any) -> None:
    model = outlines.from_openai(client, "demo")
    assert "red" in "".join(model.stream(asked, temperature=0))
