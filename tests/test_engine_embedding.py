"""Vectors go through the scheduler like answers: in turns, in pieces, and never for free."""

from __future__ import annotations

import numpy as np
import pytest
from engine_fakes import IMAGE_TOKENS, add, drain, make_core, picture, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import Pool
from server.errors import ContextLengthExceeded
from server.messages import AbortRequest, Embedded, EmbedRequest, ImageInput, Pooling, Rejected


def embed(request_id: str, *parts: str | ImageInput, pooling: Pooling = Pooling.HIDDEN) -> object:
    return EmbedRequest(request_id, parts, pooling, 0.0)


def mean(text: str, pictures: int = 0) -> float:
    values = [ord(letter) for letter in text] + [1000] * IMAGE_TOKENS * pictures
    return sum(values) / len(values)


def vector(outputs: list[object]) -> float:
    (output,) = outputs
    assert isinstance(output, Embedded), output
    (value,) = np.frombuffer(output.vector, np.float32)
    return float(value)


def test_mean_is_that_of_all_states_whatever_the_pieces() -> None:
    core, runner = make_core(n_batch=4)
    core.embed(embed("e", "some text"))  # type: ignore[arg-type]
    assert vector(drain(core)["e"]) == pytest.approx(mean("some text"))
    assert runner.computed == len("some text")


def test_texts_around_pictures_are_pooled_together() -> None:
    core, _ = make_core()
    core.embed(embed("e", "ab", picture(), "c"))  # type: ignore[arg-type]
    outputs = drain(core)["e"]
    assert vector(outputs) == pytest.approx(mean("abc", 1))
    (output,) = outputs
    assert isinstance(output, Embedded)
    assert (output.prompt_tokens, output.image_tokens) == (3 + IMAGE_TOKENS, IMAGE_TOKENS)


@pytest.mark.parametrize("slow", [False, True])
def test_pictures_alone_run_no_language_model(slow: bool) -> None:
    core, runner = make_core(slow_encodes=slow, image_bytes=10_000)
    core.embed(embed("e", picture("a"), picture("b"), pooling=Pooling.PROJECTOR))  # type: ignore[arg-type]
    (output,) = drain(core, runner)["e"]
    assert isinstance(output, Embedded)
    assert len(np.frombuffer(output.vector, np.float32)) == 4
    assert runner.computed == 0
    assert runner.encodes == ["a", "b"]
    core.embed(embed("f", picture("b"), pooling=Pooling.PROJECTOR))  # type: ignore[arg-type]
    assert isinstance(drain(core, runner)["f"][0], Embedded)
    assert runner.encodes == ["a", "b"], "the image cache serves vectors, too"


def test_what_others_computed_is_computed_again() -> None:
    core, runner = make_core()
    core.add(add("a", "the same prompt", max_tokens=1))
    drain(core)
    before = runner.computed
    core.embed(embed("e", "the same prompt"))  # type: ignore[arg-type]
    assert vector(drain(core)["e"]) == pytest.approx(mean("the same prompt"))
    assert runner.computed - before == len("the same prompt")


def test_streams_go_on_beside_them() -> None:
    core, _ = make_core(n_seq=3, n_cells=200)
    core.add(add("a", "stream"))
    core.step()
    core.embed(embed("e", "x" * 60))  # type: ignore[arg-type]
    vectors, streamed = 0, 0
    while not vectors:
        outputs = core.step().outputs
        vectors += sum(isinstance(output, Embedded) for output in outputs)
        streamed += sum(output.request_id == "a" for output in outputs)
        if not streamed or not core.scheduler.find("a"):
            break
        assert any(output.request_id == "a" for output in outputs), "every step serves the stream"
    assert streamed
    drain(core)


def test_too_long_and_empty_ones_are_refused_and_aborted_ones_are_gone() -> None:
    core, runner = make_core(n_cells=16)
    core.embed(embed("long", "x" * 17))  # type: ignore[arg-type]
    core.embed(embed("empty"))  # type: ignore[arg-type]
    core.embed(embed("gone", "x" * 10))  # type: ignore[arg-type]
    core.abort(AbortRequest("gone"))
    outputs = drain(core)
    assert isinstance(outputs["long"][0], Rejected)
    assert isinstance(outputs["long"][0].error, ContextLengthExceeded)
    assert isinstance(outputs["empty"][0], Rejected)
    assert "gone" not in outputs
    assert runner.computed == 0


def test_broken_picture_ends_its_vector_alone() -> None:
    core, runner = make_core()
    runner.broken_pictures.add("bad")
    core.embed(embed("e", picture("bad"), pooling=Pooling.PROJECTOR))  # type: ignore[arg-type]
    core.embed(embed("f", "fine"))  # type: ignore[arg-type]
    outputs = drain(core, runner)
    assert isinstance(outputs["e"][0], Rejected)
    assert vector(outputs["f"]) == pytest.approx(mean("fine"))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.text("abc", min_size=1, max_size=30)), min_size=1, max_size=8
    ),
    st.integers(40, 120),
)
def test_any_mixture_under_pressure_comes_out_right(
    wanted: list[tuple[bool, str]], n_cells: int
) -> None:
    """Answers and vectors, more than fit at once: preempted ones begin their mean again."""
    core, _ = make_core(n_seq=3, n_cells=n_cells)
    for number, (is_vector, text) in enumerate(wanted):
        if is_vector:
            core.embed(embed(str(number), text))  # type: ignore[arg-type]
        else:
            core.add(add(str(number), text, max_tokens=4))
    outputs = drain(core)
    for number, (is_vector, text) in enumerate(wanted):
        if is_vector:
            assert vector(outputs[str(number)]) == pytest.approx(mean(text))
        else:
            assert text_of(outputs[str(number)])


def test_pool_begins_again_after_it_was_cleared() -> None:
    pool = Pool(Pooling.HIDDEN)
    pool.add(np.array([[1.0], [2.0]], np.float32))
    pool.clear()
    pool.add(np.array([[5.0]], np.float32))
    assert pool.vector == pytest.approx([5.0])
