"""Log-probabilities of a prompt's tokens, and requests that ask for no token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine_fakes import add, drain, make_core, picture, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import MOST_ROWS
from server.engine.token_chooser import token_logprob
from server.messages import AbortRequest, FinishReason, Rejected, TokenOutput


def scores(outputs: list[object]) -> list[tuple[int, float]]:
    tokens = [o for o in outputs if isinstance(o, TokenOutput)]
    assert not any(output.prompt_logprobs for output in tokens[1:])
    return [(score.token, score.logprob) for score in tokens[0].prompt_logprobs]


def check(outputs: list[object], text: str) -> None:
    found = scores(outputs)
    assert [token for token, _ in found] == [ord(letter) for letter in text]
    assert math.isnan(found[0][1])
    assert [logprob for _, logprob in found[1:]] == [-float(ord(letter)) for letter in text[1:]]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, MOST_ROWS, MOST_ROWS + 1, 200])
def test_every_token_has_one_whatever_the_chunks(length: int) -> None:
    core, _ = make_core(n_cells=400, n_batch=100)
    text = "".join(chr(97 + n % 26) for n in range(length))
    core.add(add("a", text, max_tokens=2, prompt_logprobs=3))
    outputs = drain(core)["a"]
    check(outputs, text)
    assert text_of(outputs) == "".join(f"{n}," for n in (length, length - 1) if n)
    first = next(o for o in outputs if isinstance(o, TokenOutput))
    assert all(len(score.top) == 3 for score in first.prompt_logprobs[1:])


def test_nothing_is_taken_from_the_cache_and_others_may_take_it() -> None:
    core, runner = make_core(n_cells=400)
    core.add(add("a", "the same prompt", max_tokens=1))
    drain(core)
    core.add(add("b", "the same prompt", max_tokens=1, prompt_logprobs=0))
    check(drain(core)["b"], "the same prompt")
    assert runner.prefilled["b"] == len("the same prompt")
    core.add(add("c", "the same prompt!", max_tokens=1))
    drain(core)
    assert runner.prefilled["c"] == 1


def test_without_a_token_to_generate_the_prompt_is_all() -> None:
    core, runner = make_core()
    core.add(add("a", "prompt", max_tokens=0, prompt_logprobs=1))
    core.add(add("b", "other", max_tokens=0))
    core.add(add("c", "with", picture("x"), max_tokens=0))
    outputs = drain(core)
    check(outputs["a"], "prompt")
    for name in "abc":
        (output,) = [o for o in outputs[name] if isinstance(o, TokenOutput)]
        assert (output.text, output.completion_tokens) == ("", 0)
        assert output.finish_reason is FinishReason.LENGTH
        assert output.timings is not None
        assert output.timings.finished >= output.timings.first_token > 0
    assert len(output.images) == 1
    assert sorted(runner.released) == ["a", "b", "c"]


def test_pictures_have_none() -> None:
    core, _ = make_core()
    core.add(add("a", "text", picture("x"), prompt_logprobs=1))
    (output,) = drain(core)["a"]
    assert isinstance(output, Rejected)
    assert output.error.param == "prompt_logprobs"


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.booleans(), st.text("abc", min_size=1, max_size=30), st.integers(0, 8)),
        min_size=1,
        max_size=8,
    ),
    st.integers(40, 120),
    st.integers(-1, 8),
)
def test_under_pressure_each_is_scored_once(
    asked: list[tuple[bool, str, int]], n_cells: int, aborted: int
) -> None:
    core, _ = make_core(n_seq=3, n_cells=n_cells)
    for number, (scored, text, tokens) in enumerate(asked):
        core.add(add(str(number), text, max_tokens=tokens, prompt_logprobs=2 if scored else None))
    early = list(core.step().outputs)
    core.abort(AbortRequest(str(aborted)))
    outputs = drain(core)
    for number, (scored, text, tokens) in enumerate(asked):
        if number == aborted:
            continue
        mine = [o for o in early if o.request_id == str(number)] + outputs.get(str(number), [])
        if scored:
            check(mine, text)
        assert text_of(mine) == "".join(f"{n}," for n in range(len(text), 0, -1)[:tokens])


def test_a_token_s_rank_counts_those_that_are_more_likely() -> None:
    logits = np.array([0.0, 3.0, 1.0, 2.0], np.float32)
    scored = token_logprob(logits, 2, 2, lambda token: b"%d" % token)
    expected = logits - np.log(np.exp(logits).sum())
    assert scored.rank == 3
    assert scored.logprob == pytest.approx(expected[2])
    assert [(token, piece) for token, piece, _ in scored.top] == [(1, b"1"), (3, b"3")]
