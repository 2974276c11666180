"""Log-probabilities: the numbers, and whose are told when text is held back."""

from __future__ import annotations

import numpy as np
import pytest
from engine_fakes import add, drain, make_core, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.engine.output_text import Writer
from server.engine.request import Sample
from server.engine.token_chooser import LOWEST, bounded, top_logprobs
from server.messages import TokenLogprob, TokenOutput
from server.messages.sampling import Grammar, GrammarKind, SamplingParams


@settings(max_examples=100)
@given(
    arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(-65536, 65536, width=32)),
    st.integers(0, 20),
)
def test_they_are_those_of_the_softmax(logits: np.ndarray, count: int) -> None:
    denominator, top = top_logprobs(logits, count)
    exact = logits.astype(np.float64) - float(logits.max())
    exact -= np.log(np.exp(exact).sum())
    assert len(top) == min(count, len(logits))
    order = np.lexsort((np.arange(len(logits)), -logits))[:count]
    assert [token for token, _ in top] == order.tolist()
    for token, logprob in top:
        assert logprob == pytest.approx(max(float(exact[token]), LOWEST), rel=1e-4, abs=1e-4)
        assert bounded(float(logits[token]) - denominator) == logprob


def test_what_never_comes_has_a_number_all_the_same() -> None:
    logits = np.array([1.0, -np.inf], np.float32)
    assert top_logprobs(logits, 2)[1][1] == (1, LOWEST)


def told(outputs: list[object]) -> list[int]:
    return [lp.token for o in outputs if isinstance(o, TokenOutput) for lp in o.logprobs]


def test_they_come_when_asked_for_and_not_for_the_end() -> None:
    core, _ = make_core()
    core.add(add("without", "abc"))
    core.add(add("with", "abc", logprobs=0))
    outputs = drain(core)
    assert told(outputs["without"]) == []
    assert told(outputs["with"]) == [3, 2, 1]
    assert text_of(outputs["with"]) == "3,2,1,"


def test_with_a_stop_string_only_those_of_shown_text_are_told() -> None:
    core, _ = make_core()
    core.add(add("whole", "abcdef", logprobs=0, stop=("4,3",)))
    core.add(add("cut", "abcdef", logprobs=0, stop=(",4",)))
    outputs = drain(core)
    assert text_of(outputs["whole"]) == "6,5,"
    assert told(outputs["whole"]) == [6, 5]
    # Half of the token 5, is shown.
    assert text_of(outputs["cut"]) == "6,5"
    assert told(outputs["cut"]) == [6, 5]


def write(writer: Writer, *pieces: bytes) -> list[tuple[str, list[int]]]:
    steps = []
    for number, piece in enumerate(pieces):
        sample = Sample(number, TokenLogprob(number, piece, -1.0))
        text = writer.write(sample, piece)
        steps.append((text, [lp.token for lp in writer.logprobs(ended=False)]))
    text = writer.flush()
    return [*steps, (text, [lp.token for lp in writer.logprobs(ended=True)])]


def test_held_back_text_holds_its_tokens_back() -> None:
    writer = Writer(SamplingParams(stop=("abc",)), strip_first_space=False)
    assert write(writer, b"xa", b"b", b"d") == [
        ("x", []),
        ("", []),
        ("abd", [0, 1, 2]),
        ("", []),
    ]
    writer = Writer(SamplingParams(stop=("abc",)), strip_first_space=False)
    assert write(writer, b"xa", b"bc", b"d") == [("x", []), ("", []), ("", []), ("", [0])]


def test_tokens_of_one_character_come_together() -> None:
    face = "😀".encode()
    writer = Writer(SamplingParams(), strip_first_space=False)
    assert write(writer, face[:1], face[1:3], face[3:] + b"!", b"") == [
        ("", []),
        ("", []),
        ("😀!", [0, 1, 2]),
        ("", [3]),
        ("", []),
    ]
    cut = Writer(SamplingParams(), strip_first_space=False)
    assert write(cut, b"a", face[:2]) == [("a", [0]), ("", []), ("\ufffd", [1])]


def test_a_text_that_fits_a_grammar_keeps_its_first_space() -> None:
    grammar = Grammar(GrammarKind.LARK, 'start: " a"', "grammar")
    free, bound = SamplingParams(logprobs=0), SamplingParams(logprobs=0, grammar=grammar)
    assert write(Writer(free, strip_first_space=True), b" a")[0] == ("a", [0])
    assert write(Writer(bound, strip_first_space=True), b" a")[0] == (" a", [0])


@settings(max_examples=200)
@given(
    st.lists(
        st.binary(min_size=0, max_size=3) | st.sampled_from(["é".encode(), b"ab"]), max_size=8
    ),
    st.lists(st.sampled_from(["ab", "b", "é", "ba"]), max_size=2).map(tuple),
)
def test_each_token_is_told_once_in_order_and_none_beyond_the_text(
    pieces: list[bytes], stop: tuple[str, ...]
) -> None:
    writer = Writer(SamplingParams(stop=stop), strip_first_space=False)
    steps = write(writer, *pieces)
    tokens = [token for _, told in steps for token in told]
    assert tokens == list(range(len(tokens)))
    if not writer.stopped:
        assert len(tokens) == len(pieces) or all(not p for p in pieces[len(tokens) :])
