"""Tokens that a grammar forces are computed in one batch, and the text stays what it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_fakes import countdown, drain, make_core, text_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocabularies import VOCABULARIES, open_vocabulary

from server.engine.grammar import GrammarCompiler, TokenTable
from server.engine.llama.model import Model
from server.engine.loading.load import LoadedEngine, load
from server.engine.request import MOST_DECODED
from server.engine.token_chooser import Chooser
from server.messages import AddRequest, EngineConfig, TokenOutput
from server.messages.sampling import Grammar, GrammarKind, SamplingParams, SchemaRule

DEMO = Path(__file__).parents[1] / "models" / "demo"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "number_of_people_in_the_foreground": {"type": "integer"},
        "is_it_taken_outdoors": {"type": "boolean"},
        "name_of_the_city": {"enum": ["Amsterdam", "Antwerp"]},
    },
    "required": [
        "number_of_people_in_the_foreground",
        "is_it_taken_outdoors",
        "name_of_the_city",
    ],
    "additionalProperties": False,
}


def grammar(schema: Any) -> Grammar:
    rule = SchemaRule("", json.dumps(schema), "")
    return Grammar(GrammarKind.JSON_SCHEMA, "", "response_format", schemas=(rule,))


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=7),
    st.integers(0, MOST_DECODED - 1),
    st.integers(48, 120),
    st.sampled_from([8, 16, 64]),
)
def test_forced_tokens_change_no_answer(
    lengths: list[int], forces: int, n_cells: int, n_batch: int
) -> None:
    """Whatever else runs, and whatever is preempted for want of cells."""
    core, _ = make_core(n_cells=n_cells, n_batch=n_batch, forces=forces)
    lengths = [length for length in lengths if 2 * length < n_cells]
    for number, length in enumerate(lengths):
        core.add(AddRequest(str(number), ("x" * length,), SamplingParams(max_tokens=99), 0.0))
    outputs = drain(core)
    for number, length in enumerate(lengths):
        found = [each for each in outputs[str(number)] if isinstance(each, TokenOutput)]
        assert text_of(found) == countdown(length)
        assert [each.completion_tokens for each in found] == list(range(1, len(found) + 1)), (
            "one a token"
        )
    assert core.scheduler.kv.pinned == 0


def test_they_take_one_step_together() -> None:
    steps = {}
    for forces in (0, 9):
        core, runner = make_core(forces=forces)
        core.add(AddRequest("r", ("x" * 20,), SamplingParams(max_tokens=99), 0.0))
        drain(core)
        steps[forces] = runner.calls
    assert steps[9] <= steps[0] // 5


@pytest.mark.parametrize(("max_tokens", "stop"), [(4, ()), (99, ("17,",))])
def test_a_limit_and_a_stop_string_hold_within_forced_tokens(
    max_tokens: int, stop: tuple[str, ...]
) -> None:
    params = SamplingParams(max_tokens=max_tokens, stop=stop)
    answers = []
    for forces in (0, 9):
        core, _ = make_core(forces=forces)
        core.add(AddRequest("r", ("x" * 20,), params, 0.0))
        answers.append(
            [
                (each.text, each.completion_tokens, each.finish_reason)
                for each in drain(core)["r"]
                if isinstance(each, TokenOutput)
            ]
        )
    assert answers[0] == answers[1]


WORDS = [b"number", b"_of", b"_people", b'":', b'"', b"_"]
LETTERS = [bytes([byte]) for byte in range(256)]


def spell(text: bytes) -> list[int]:
    """The longest token first, as tokenizers do."""
    found: list[int] = []
    table = [*LETTERS, *WORDS]
    while text:
        best = max((p for p in table if text.startswith(p)), key=len)
        found.append(table.index(best))
        text = text[len(best) :]
    return found


def matcher_of(spelling: Any) -> Any:
    table = TokenTable([*LETTERS, *WORDS, b""], frozenset({256 + len(WORDS)}), spelling)
    schema = {
        "type": "object",
        "properties": {"number_of_people": {"type": "integer"}},
        "required": ["number_of_people"],
        "additionalProperties": False,
    }
    return GrammarCompiler(table).matcher(grammar(schema)), table


def test_what_is_forced_is_spelled_as_the_tokenizer_does() -> None:
    matcher, table = matcher_of(spell)
    for byte in b'{"':
        matcher.accept(byte, bytes([byte]))
    tokens = matcher.forced(MOST_DECODED)
    assert [table.tokens[token] for token in tokens] == [b"number", b"_of", b"_people"]
    # The quote may be one with the colon, so that is for the model to say.
    assert matcher.forced(MOST_DECODED) == []


def test_no_more_than_wanted_and_none_that_is_biased() -> None:
    matcher, table = matcher_of(spell)
    for byte in b'{"':
        matcher.accept(byte, bytes([byte]))
    assert len(matcher.forced(1)) == 1
    people = table.tokens.index(b"_people")
    assert [table.tokens[t] for t in matcher.forced(9, frozenset({people}))] == [b"_of"]


def test_a_tokenizer_that_spells_something_else_forces_nothing() -> None:
    for other in (lambda _: [], lambda text: spell(b" " + text), None):
        matcher, _ = matcher_of(other)
        for byte in b'{"':
            matcher.accept(byte, bytes([byte]))
        assert matcher.forced(MOST_DECODED) == []


@pytest.fixture(scope="module", params=VOCABULARIES)
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Model]:
    loaded = open_vocabulary(request.param, tmp_path_factory.mktemp("vocabularies"))
    yield loaded
    loaded.close()


# These vocabularies have no word that begins with a space, as which SentencePiece writes one.
NO_SPACE = st.characters(exclude_categories=["Cs"], exclude_characters="\0 \u2581")


@given(text=st.text(NO_SPACE))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_vocabulary_s_own_first_space_is_left_out(vocabulary: Model, text: str) -> None:
    tokens = vocabulary.spell(text.encode())
    assert b"".join(map(vocabulary.piece, tokens)) == text.encode()
    assert vocabulary.spell(b"\xc3") == [], "a cut character"


@contextmanager
def demo(folder: Path) -> Iterator[LoadedEngine]:
    config = EngineConfig(DEMO / "llava-demo-q8_0.gguf", None, folder, 512, 2, 1)
    engine = load(config, lambda _progress: None, lambda _done: None)
    try:
        yield engine
    finally:
        engine.close()


def answer(engine: LoadedEngine, **params: Any) -> tuple[str, int]:
    """The text, and the decodes that it took."""
    sampling = SamplingParams(max_tokens=200, grammar=grammar(PERSON), **params)
    engine.core.add(AddRequest("r", ("USER: facts ASSISTANT:",), sampling, 0.0))
    before, text = engine.core._decodes, ""
    while engine.core.has_work:
        outputs = engine.core.step().outputs
        text += text_of([each for each in outputs if isinstance(each, TokenOutput)])
    return text, engine.core._decodes - before


def test_the_demo_writes_the_same_json_in_fewer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with demo(tmp_path) as engine:
        text, steps = answer(engine, temperature=0.0)
        # Log-probabilities are of the model's choice, so with them nothing is forced.
        scored, all_steps = answer(engine, temperature=0.0, logprobs=1)
        monkeypatch.setattr(Chooser, "_forced", lambda _self, _most: [])
        plain, plain_steps = answer(engine, temperature=0.0)
    assert json.loads(text).keys() == PERSON["properties"].keys()
    assert text == plain == scored
    assert plain_steps == all_steps
    assert steps < plain_steps * 2 / 3
