"""The times that the engine tells: there, finite, and adding up."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from asking import RED, shape, user
from live import LiveServer


def ask(demo: LiveServer, **fields: Any) -> dict[str, Any]:
    """One greedy completion; the JSON of the answer, or of a stream's last chunk."""
    body = {"temperature": 0, "max_tokens": 12, **fields}
    response = httpx.post(f"{demo.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return dict(response.json())
    events = response.text.split("\n\n")
    assert events[-2] == "data: [DONE]"
    assert all("timings" not in event for event in events[:-3])
    return dict(json.loads(events[-3].removeprefix("data: ")))


@pytest.mark.parametrize(
    "more", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}]
)
def test_timings_are_real(demo: LiveServer, more: dict[str, Any]) -> None:
    question = f"Describe it, {sorted(more)}."
    start = time.monotonic()
    reply = ask(demo, messages=[user(shape("circle", RED), question)], **more)
    took = (time.monotonic() - start) * 1000
    times = reply["timings"]
    assert 0 < times["prompt_ms"] + times["predicted_ms"] <= took
    assert 1 <= times["predicted_n"] <= 12
    assert times["prompt_per_second"] == pytest.approx(
        times["prompt_n"] / times["prompt_ms"] * 1000, rel=0.01
    )
    if times["predicted_n"] > 1:
        steps = times["predicted_n"] - 1
        assert times["predicted_per_token_ms"] == pytest.approx(
            times["predicted_ms"] / steps, rel=0.01, abs=0.01
        )
    if "usage" in reply:
        assert times["prompt_n"] + times["cache_n"] == reply["usage"]["prompt_tokens"]
        assert times["predicted_n"] == reply["usage"]["completion_tokens"]


def test_cached_prompt_is_told_as_such(demo: LiveServer) -> None:
    messages = [{"role": "user", "content": "A question nobody has asked before: why?"}]
    first, second = (ask(demo, messages=messages)["timings"] for _ in range(2))
    assert second["cache_n"] > first["cache_n"]
    assert second["prompt_n"] == 1, "the last token is computed for its logits"
    assert first["prompt_n"] + first["cache_n"] == second["prompt_n"] + second["cache_n"]


def test_one_token_has_no_speed(demo: LiveServer) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    times = ask(demo, messages=messages, max_tokens=1)["timings"]
    assert times["predicted_n"] == 1
    assert times["predicted_per_token_ms"] == 0


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "A red circle"}),
    ],
)
def test_every_chunk_tells_its_answer_s_progress(
    demo: LiveServer, path: str, prompt: dict[str, Any]
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"stream": True, "stream_options": options, "timings_per_token": True}
    answer = httpx.post(demo.url + path, json={**prompt, **body, "max_tokens": 6, "n": 2})
    assert answer.status_code == 200, answer.text
    assert "x-llava-ignored" not in answer.headers
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    for index in (0, 1):
        own = [c for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
        own = [c for c in own if c["choices"][0].get("delta", {}).get("role") is None]
        times = [c["timings"] for c in own]
        counts = [c["usage"]["completion_tokens"] for c in own]
        assert counts == [one["predicted_n"] for one in times] == sorted(counts)
        # Tokens that wait for their reader come in one chunk.
        assert 1 <= counts[0] <= counts[-1] <= 6
        spent = [one["predicted_ms"] for one in times]
        assert spent == sorted(spent)
        assert all((one["predicted_ms"] > 0) == (one["predicted_n"] > 1) for one in times)
        assert len({one["prompt_ms"] for one in times}) == 1, "the prompt's time does not change"
