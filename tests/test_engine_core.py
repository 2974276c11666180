"""The engine's loop on a runner without llama.cpp."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from engine_fakes import IMAGE_TOKENS, add, countdown, drain, make_core, picture, text_of

from server.engine.scheduling.step import SMALLEST_CHUNK
from server.errors import ContextLengthExceeded, EngineError, RequestError
from server.messages import AbortRequest, Admitted, FinishReason, Rejected, TokenOutput


def test_a_prompt_is_admitted_answered_and_ended() -> None:
    core, runner = make_core()
    core.add(add("a", "four"))
    outputs = drain(core)["a"]
    assert outputs[0] == Admitted("a", 4, 0)
    assert text_of(outputs) == "4,3,2,1,"
    last = outputs[-1]
    assert isinstance(last, TokenOutput)
    assert (last.finish_reason, last.completion_tokens) == (FinishReason.STOP, 5)
    assert last.stop is None
    assert runner.released == ["a"]
    assert core.scheduler.kv.pinned == 0


def test_pictures_are_encoded_once_in_order_between_their_texts() -> None:
    core, runner = make_core()
    core.add(add("a", "one", picture("x"), "two", picture("y"), "three"))
    outputs = drain(core)["a"]
    assert runner.encodes == ["x", "y"]
    assert outputs[0] == Admitted("a", 11 + 2 * IMAGE_TOKENS, 2 * IMAGE_TOKENS)
    first = next(o for o in outputs if isinstance(o, TokenOutput))
    assert [image.tokens for image in first.images] == [IMAGE_TOKENS, IMAGE_TOKENS]
    assert text_of(outputs) == countdown(11 + 2 * IMAGE_TOKENS)


def test_a_prompt_may_end_with_a_picture_or_be_nothing_else() -> None:
    core, _ = make_core()
    core.add(add("a", picture()))
    assert text_of(drain(core)["a"]) == countdown(IMAGE_TOKENS)


def test_max_tokens_ends_with_length() -> None:
    core, _ = make_core()
    core.add(add("a", "12345", max_tokens=2))
    outputs = drain(core)["a"]
    assert text_of(outputs) == "5,4,"
    assert outputs[-1].finish_reason is FinishReason.LENGTH  # type: ignore[attr-defined]


def test_the_context_ends_an_answer_that_does_not_fit() -> None:
    core, _ = make_core(n_cells=12)
    core.add(add("a", "1234567"))
    outputs = drain(core)["a"]
    assert text_of(outputs) == "7,6,5,4,3,"
    assert outputs[-1].finish_reason is FinishReason.LENGTH  # type: ignore[attr-defined]


def test_a_prompt_larger_than_the_context_is_refused_with_the_numbers() -> None:
    core, _ = make_core(n_cells=12)
    core.add(add("a", "1234", picture()))
    (output,) = drain(core)["a"]
    assert isinstance(output, Rejected)
    assert isinstance(output.error, ContextLengthExceeded)
    for number in ("13", "4 of text", "9 of pictures", "12"):
        assert number in output.error.message


def test_a_prompt_that_fills_the_context_leaves_no_room_for_an_answer() -> None:
    core, _ = make_core(n_cells=12)
    core.add(add("a", "123456789012"))
    (output,) = drain(core)["a"]
    assert isinstance(output, Rejected)
    assert "has 12 " in output.error.message
    assert "the answer needs one more; prompt is too long: 12 tokens > 11" in output.error.message


def test_an_empty_prompt_and_a_refused_picture_leave_nothing_behind() -> None:
    core, _ = make_core()
    core.add(add("a", ""))
    core.add(add("b", picture("refused")))
    outputs = drain(core)
    assert all(isinstance(outputs[name][0].error, RequestError) for name in "ab")  # type: ignore[attr-defined]
    assert not core.has_work


def test_a_picture_that_fails_ends_its_request_alone() -> None:
    core, runner = make_core()
    runner.broken_pictures.add("bad")
    core.add(add("a", "text", picture("bad"), "more"))
    core.add(add("b", "four"))
    outputs = drain(core)
    assert isinstance(outputs["a"][-1].error, EngineError)  # type: ignore[attr-defined]
    assert outputs["a"][-1].encode_seconds >= 0  # type: ignore[attr-defined]
    assert text_of(outputs["b"]) == "4,3,2,1,"
    assert core.scheduler.kv.pinned == 0


def test_a_stop_string_is_not_sent_and_ends_the_request() -> None:
    core, _ = make_core()
    core.add(add("a", "123456789", stop=("7,6",)))
    outputs = drain(core)["a"]
    assert text_of(outputs) == "9,8,"
    last = outputs[-1]
    assert isinstance(last, TokenOutput)
    assert (last.finish_reason, last.stop) == (FinishReason.STOP, "7,6")


def test_an_abort_frees_the_sequence_within_a_step() -> None:
    core, runner = make_core(n_seq=1)
    core.add(add("a", "a" * 30))
    core.add(add("b", "four"))
    core.step()
    core.step()
    core.abort(AbortRequest("a"))
    outputs = drain(core)
    assert text_of(outputs["b"]) == "4,3,2,1,"
    assert runner.released == ["a", "b"]


def test_a_queued_request_that_is_aborted_never_runs() -> None:
    core, runner = make_core(n_seq=1)
    core.add(add("a", "four"))
    core.add(add("b", picture("never")))
    core.step()
    core.abort(AbortRequest("b"))
    drain(core)
    assert runner.encodes == []


def test_aborting_what_is_unknown_does_nothing() -> None:
    core, _ = make_core()
    core.abort(AbortRequest("ghost"))
    assert not core.has_work


def test_a_long_prompt_does_not_stop_a_running_stream() -> None:
    core, _ = make_core(n_cells=2000, n_batch=512)
    core.add(add("stream", "a" * 120))
    core.step()
    core.add(add("long", "b" * 1500))
    for _ in range(1500 // SMALLEST_CHUNK):
        step = core.step()
        assert [o.request_id for o in step.outputs if isinstance(o, TokenOutput)] == ["stream"]


def test_preempted_requests_resume_and_say_the_same() -> None:
    core, _ = make_core(n_seq=4, n_cells=40, n_batch=16)
    for name in "abcd":
        core.add(add(name, name * 9))
    outputs = drain(core)
    for name in "abcd":
        assert text_of(outputs[name]) == countdown(9)


def test_the_fake_notices_a_gap() -> None:
    core, runner = make_core()
    core.add(add("a", "four"))
    core.step()
    runner.cells[0].pop()
    with pytest.raises(AssertionError, match="gap"):
        core.step()


def test_outputs_say_when_the_request_reached_each_stage() -> None:
    core, runner = make_core(slow_encodes=True)
    before = time.monotonic()
    core.add(add("a", "one", picture("x"), "two"))
    core.add(add("b", "12345", max_tokens=1))
    outputs = drain(core, runner)
    a = [o for o in outputs["a"] if isinstance(o, TokenOutput)]
    first, last = a[0].timings, a[-1].timings
    assert first is not None
    assert last is not None
    assert before <= first.queued <= first.started <= first.first_token
    assert (first.finished, first.decode_seconds) == (0.0, 0.0)
    # The process's memory may have grown meanwhile.
    assert last == replace(first, finished=last.finished, peaks=last.peaks)
    assert first.first_token <= last.finished <= time.monotonic()
    assert last.queue_seconds + last.prefill_seconds + last.decode_seconds == pytest.approx(
        last.finished - last.queued
    )
    assert [o.timings for o in a[1:-1]] == [None] * (len(a) - 2)
    assert a[0].gap == 0.0
    assert sum(o.gap for o in a) == pytest.approx(last.finished - first.first_token, abs=0.01)
    (image,) = a[0].images
    assert first.started <= image.encode_start
    assert image.encode_start + image.encode_seconds <= first.first_token
    (only,) = [o for o in outputs["b"] if isinstance(o, TokenOutput)]
    assert only.timings is not None
    assert only.timings.finished >= only.timings.first_token > 0


def test_a_preempted_request_keeps_the_time_of_its_first_start() -> None:
    core, _ = make_core(n_seq=2, n_cells=24)
    core.add(add("a", "123456789"))
    core.add(add("b", "abcdefghi"))
    seen: dict[str, set[float]] = {"a": set(), "b": set()}
    while core.has_work:
        for request in core.scheduler.running:
            seen[request.request_id].add(request.started)
        core.step()
    assert core.scheduler.preemptions > 0
    assert all(len(times) == 1 for times in seen.values())


@pytest.mark.parametrize("taken", [1, 3, 6])
def test_a_resumed_request_goes_on_where_the_lost_engine_was(taken: int) -> None:
    whole, runner = make_core()
    whole.add(add("r", "12345678", picture(), stop=("2,1",)))
    said = drain(whole, runner)["r"][1:]
    resumed, runner = make_core()
    tokens = tuple(output.token for output in said[:taken])
    resumed.add(replace(add("r", "12345678", picture(), stop=("2,1",)), resumed=tokens))
    admitted, *rest = drain(resumed, runner)["r"]
    assert isinstance(admitted, Admitted)
    assert text_of(said[:taken]) + text_of(rest) == text_of(said)
    assert [output.completion_tokens for output in rest] == list(range(taken + 1, len(said) + 1))
    assert rest[-1].finish_reason is said[-1].finish_reason is FinishReason.STOP


def test_decodes_and_their_sequences_are_counted() -> None:
    core, _ = make_core()
    core.add(add("a", "four"))
    core.add(add("b", "four"))
    drain(core)
    stats = core._stats()
    assert (stats.decodes, stats.decode_sequences) == (5, 10)
    assert stats.tokens_max == 4 + 5
