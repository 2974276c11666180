"""Thoughts in the engine, on the demo model: closed by their budget, and free of the grammar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_fakes import text_of
from live import DEMO
from test_engine_choosing import LETTERS, Engine

from server.engine.llama.model import Model
from server.engine.thought import ThoughtGate
from server.messages import AddRequest
from server.messages.sampling import Grammar, GrammarKind, SamplingParams, ThoughtRule

PROMPT = ("USER: Hello ASSISTANT:",)
BEGUN = ThoughtRule("<think>", "</think>", begun=True, budget=5)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    (path,) = [p for p in DEMO.glob("*.gguf") if "mmproj" not in p.name]
    model = Model(path, 0)
    yield model
    model.close()


def said(model: Model, resumed: tuple[int, ...] = (), **sampling: Any) -> str:
    params = SamplingParams(temperature=0.0, **{"max_tokens": 120, **sampling})
    engine = Engine(model, 256)
    return text_of(engine.ask(AddRequest("a", PROMPT, params, 0.0, resumed))["a"])


def pieces(model: Model, text: str) -> list[bytes]:
    return [model.piece(token) for token in model.tokenize(text, add_special=False)]


def test_a_thought_is_closed_when_its_budget_is_spent(model: Model) -> None:
    free = said(model, max_tokens=5, ignore_eos=True)
    text = said(model, thought=BEGUN, max_tokens=40, ignore_eos=True)
    thought, _, answer = text.partition("</think>")
    assert thought.strip() == free.strip()
    assert answer
    assert (
        said(model, thought=ThoughtRule("<think>", "</think>", True, 0))
        .lstrip()
        .startswith("</think>")
    )


def test_the_grammar_holds_for_the_answer_alone(model: Model) -> None:
    text = said(model, thought=BEGUN, grammar=LETTERS, ignore_eos=True)
    thought, tag, answer = text.partition("</think>")
    assert tag
    assert set(thought.strip()) - set("ab")
    assert len(answer) == 30
    assert set(answer) <= set("ab")


def test_a_model_that_ends_within_its_thought_still_answers_within_the_grammar(
    model: Model,
) -> None:
    ends = tuple((token, 100.0) for token in model.end_tokens)
    rule = ThoughtRule("<think>", "</think>", begun=True)
    text = said(model, thought=rule, grammar=LETTERS, logit_bias=ends)
    assert text.lstrip().startswith("</think>")
    assert len(text.partition("</think>")[2]) == 30


def test_a_model_that_does_not_think_answers_within_the_grammar(model: Model) -> None:
    rule = ThoughtRule("<think>", "</think>", budget=5)
    assert said(model, thought=rule, grammar=LETTERS) == said(model, grammar=LETTERS)


def test_a_grammar_leaves_the_choice_to_think(model: Model) -> None:
    word = next(
        token
        for token in range(model.n_vocab)
        if model.piece(token).strip().isalpha()
        and len(model.piece(token).strip()) > 2
        and model.tokenize(model.piece(token).decode(), add_special=False, parse_special=False)
        == [token]
    )
    start = model.piece(word).decode()
    rule = ThoughtRule(start, "</think>", budget=3)
    gate = ThoughtGate(rule, model)
    assert gate.opening == word
    text = said(model, thought=rule, grammar=LETTERS, logit_bias=((word, 100.0),))
    thought, tag, answer = text.partition("</think>")
    assert thought.strip().startswith(start.strip())
    assert tag
    assert len(answer) == 30
    assert set(answer) <= set("ab")


def test_a_call_begins_behind_the_thought(model: Model) -> None:
    """The trigger is thought of, and then written."""
    grammar = Grammar(GrammarKind.LARK, 'start: "bb" /[ab]{3}/', "tools", ("bb",))
    tokens = [t for t in range(model.n_vocab) if model.piece(t) == b"b"]
    text = said(
        model,
        thought=ThoughtRule("<think>", "</think>", True, 6),
        grammar=grammar,
        logit_bias=((tokens[0], 100.0),),
    )
    assert text.strip() == "bbbbbb</think>bbbbb"


def test_a_resumed_thought_goes_on_where_it_was(model: Model) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=120, thought=BEGUN, grammar=LETTERS)
    engine = Engine(model, 256)
    outputs = engine.ask(AddRequest("a", PROMPT, params, 0.0))["a"]
    tokens = [output.token for output in outputs if hasattr(output, "token")]
    whole = text_of(outputs)
    for cut in (2, 5, 7, len(pieces(model, "</think>")) + 6, len(tokens) - 3):
        rest = said(model, tuple(tokens[:cut]), thought=BEGUN, grammar=LETTERS)
        before = b"".join(model.piece(token) for token in tokens[:cut]).decode()
        assert before + rest == whole or (before + rest).lstrip() == whole.lstrip()
