"""Requests that real clients sent (tests/clients/recorded), against an engine without a model.

``scripts.record_requests`` writes them down; they are made small by hand. Each file has what comes
of it: the status, the fields that are ignored, what the model reads, and which field the grammar of
the answer came in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, call, engine_ready
from tool_templates import HERMES

from server.api.app import create_app
from server.api.options import ApiOptions
from server.messages import ImageInput, LiteralText
from server.messages.sampling import SamplingParams

RECORDED = sorted((Path(__file__).parent / "clients" / "recorded").glob("*.json"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_real_clients_send_is_answered(path: Path) -> None:
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    expected = recorded["expect"]
    engine = FakeEngine(ready=engine_ready(chat_template=HERMES))
    app = create_app(engine, ApiOptions())
    answer = call(app, "POST", recorded["path"], json=recorded["body"], headers=recorded["headers"])
    assert answer.status_code == expected["status"], answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["param"] == expected["param"]
        return
    ignored = answer.headers.get("x-llava-ignored", "")
    assert set(filter(None, ignored.split(", "))) == set(expected["ignored"])
    if "embeddings" in recorded["path"]:
        return
    if recorded["body"].get("stream"):
        assert "red" in answer.text
        assert '"error":{' not in answer.text
    parts = engine.parts[0]
    assert sum(isinstance(part, ImageInput) for part in parts) == expected["pictures"]
    texts = [part.text if isinstance(part, LiteralText) else part for part in parts]
    prompt = "".join(text for text in texts if isinstance(text, str))
    for text in expected.get("prompt", ()):
        assert text in prompt
    assert "secret" not in prompt, "thoughts of another model"
    check_sampling(engine.sampling[0], recorded["body"], expected)


def check_sampling(sampling: SamplingParams, body: Any, expected: dict[str, Any]) -> None:
    # Functions that may be called have a grammar of their own.
    if "grammar" in expected or not body.get("tools"):
        assert (sampling.grammar.param if sampling.grammar else None) == expected.get("grammar")
    for name, value in expected.get("sampling", {}).items():
        found = getattr(sampling, name)
        assert (list(found) if isinstance(found, tuple) else found) == value


def test_a_deferred_function_is_shown_once_it_was_found() -> None:
    path = RECORDED[0].with_name("claude_code_history.json")
    body = json.loads(path.read_text(encoding="utf-8"))["body"]
    engine = FakeEngine(ready=engine_ready(chat_template=HERMES))
    app = create_app(engine, ApiOptions())
    assert call(app, "POST", "/v1/messages", json=body).status_code == 200
    assert '"Read"' in engine.prompt()
    assert '"ToolSearch"' in engine.prompt()
    assert '"Unused"' not in engine.prompt()
