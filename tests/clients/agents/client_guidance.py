"""guidance: its models for vLLM and SGLang send llguidance's grammars."""

from __future__ import annotations

from typing import Any

import guidance.models.experimental as models
import pytest
from guidance import assistant, gen, select, user


@pytest.fixture(params=["VLLMModel", "SglangModel"])
def model(request: Any, url: str) -> Any:
    made = getattr(models, request.param)
    return made("demo", base_url=f"{url}/v1", api_key="unused", echo=False)


def test_a_choice(model: Any) -> None:
    with user():
        model += "What colour is the circle?"
    with assistant():
        model += select(["red", "blue"], name="colour")
    assert model["colour"] in ("red", "blue")


def test_a_regular_expression(model: Any) -> None:
    with user():
        model += "Count."
    with assistant():
        model += gen("number", regex="[0-9]{3}")
    assert len(model["number"]) == 3
