"""One model, under whatever name clients have for it, and nothing before it is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeEngine, call, chat

from server.api.app import create_app
from server.api.generate.services import Models, ServedModel
from server.api.options import ApiOptions
from server.engine_client.interface import EngineState
from server.errors import EngineUnavailable

USER = [{"role": "user", "content": "a"}]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", chat()),
    ("/v1/chat/completions/input_tokens", chat()),
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/completions", {"prompt": [1]}),
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/responses", {"input": "a"}),
    ("/v1/responses/input_tokens", {"input": "a"}),
    ("/v1/messages", {"model": "x", "max_tokens": 1, "messages": USER}),
    ("/v1/messages/count_tokens", {"model": "x", "messages": USER}),
    ("/tokenize", {"content": "a"}),
    ("/detokenize", {"tokens": [1]}),
    ("/apply-template", chat()),
    ("/v1/images/inspect", {"url": "data:,a"}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("state", [EngineState.STARTING, EngineState.FAILED])
def test_nothing_is_asked_of_a_model_that_is_not_there(
    path: str, body: dict[str, Any], state: EngineState
) -> None:
    engine = FakeEngine(state=state)
    answer = call(create_app(engine, ApiOptions()), "POST", path, json=body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert not engine.parts


def test_every_name_is_the_one_model_s() -> None:
    model = ServedModel(FakeEngine(), "mine")
    models = Models(model)
    assert models["gpt-4o"] is models[None] is model
    assert model.name == "mine"
    with pytest.raises(EngineUnavailable):
        Models(ServedModel(FakeEngine(state=EngineState.FAILED))).check()


def test_a_model_has_the_name_of_its_file_where_it_has_no_other() -> None:
    engine = FakeEngine()
    assert engine.ready is not None
    assert ServedModel(engine).name == engine.ready.model.name
