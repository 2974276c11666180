"""DSPy: its language model, several answers and log-probabilities included."""

from __future__ import annotations

from typing import Any

import dspy
import pytest


@pytest.fixture
def asked(data_url: str) -> Any:
    picture = {"type": "image_url", "image_url": {"url": data_url}}
    text = {"type": "text", "text": "What colour is the circle?"}
    return [{"role": "user", "content": [picture, text]}]


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_picture(kind: str, url: str, asked: Any) -> None:
    model = dspy.LM(
        "openai/demo",
        api_base=f"{url}/v1",
        api_key="unused",
        model_type=kind,
        temperature=0,
        max_tokens=50,
        cache=False,
    )
    assert "red" in str(model(messages=asked)[0])


def test_several_answers_and_log_probabilities(url: str, asked: Any) -> None:
    model = dspy.LM("openai/demo", api_base=f"{url}/v1", api_key="unused", cache=False)
    answers = model(messages=asked, n=2, logprobs=True, max_tokens=20)
    assert len(answers) == 2
    assert answers[0]["logprobs"]
