"""inspect-ai: tasks with pictures, by its OpenAI and vLLM providers, with an effort set."""

from __future__ import annotations

import os
from typing import Any

import inspect_ai
import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig
from inspect_ai.scorer import includes


@pytest.mark.parametrize("model", ["openai-api/llava/demo", "vllm/demo"])
def test_a_task_with_a_picture(
    model: str, url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLAVA", "VLLM"):
        monkeypatch.setenv(f"{name}_BASE_URL", f"{url}/v1")
        monkeypatch.setenv(f"{name}_API_KEY", "unused")
    picture = ContentImage(image=os.environ["LLAVA_TEST_PICTURE"])
    asked = ChatMessageUser(content=[picture, ContentText(text="What colour is the circle?")])
    task = Task(
        dataset=[Sample(input=[asked], target="red")],
        scorer=includes(),
        config=GenerateConfig(temperature=0, max_tokens=50),
    )
    settings: Any = {"display": "none", "log_dir": str(tmp_path), "reasoning_effort": "low"}
    (log,) = inspect_ai.eval(task, model=model, **settings)
    assert log.status == "success"
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1
