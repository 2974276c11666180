"""Encodes beside decodes, shared prefixes and the image cache, on a runner without llama.cpp."""

from __future__ import annotations

from collections import Counter

import pytest
from engine_fakes import (
    IMAGE_TOKENS,
    add,
    countdown,
    drain,
    finish_encode,
    make_core,
    picture,
    text_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.scheduling.ram_store import PromptStore
from server.messages import AbortRequest, Rejected, TokenOutput


def test_streams_go_on_while_a_picture_is_encoded() -> None:
    core, runner = make_core(n_cells=400, n_batch=64, slow_encodes=True)
    core.add(add("stream", "a" * 40))
    core.step()
    core.add(add("seen", "b", picture("x")))
    core.add(add("later", picture("y")))
    for _ in range(10):
        step = core.step()
        assert [o.request_id for o in step.outputs if isinstance(o, TokenOutput)] == ["stream"]
    assert len(core.pending) == 1  # type: ignore[attr-defined]
    finish_encode(core, runner)
    said = [o.request_id for _ in range(3) for o in core.step().outputs]
    assert "seen" in said


def test_with_nothing_but_an_encode_to_wait_for_there_is_no_work() -> None:
    core, runner = make_core(slow_encodes=True)
    core.add(add("a", picture("x")))
    core.step()
    assert not core.has_work
    core.add(add("b", "four"))
    assert core.has_work
    while core.has_work:
        core.step()
    finish_encode(core, runner)
    assert core.has_work
    assert text_of(drain(core)["a"]) == countdown(IMAGE_TOKENS)


def test_an_abort_during_the_encode_leaves_the_picture_for_others() -> None:
    core, runner = make_core(slow_encodes=True, image_bytes=1 << 20)
    core.add(add("a", picture("x")))
    core.step()
    core.abort(AbortRequest("a"))
    finish_encode(core, runner)
    core.add(add("b", picture("x")))
    assert text_of(drain(core)["b"]) == countdown(IMAGE_TOKENS)
    assert runner.encodes == ["x"]


def test_questions_about_one_picture_compute_it_once() -> None:
    core, runner = make_core(n_seq=8, n_cells=400, n_batch=64)
    for index in range(8):
        core.add(add(str(index), "look", picture("x"), f"what {index}", max_tokens=1))
    outputs = drain(core)
    assert runner.encodes == ["x"]
    # The few tokens of "what " are computed for each: no wait is worth them.
    shared = 4 + IMAGE_TOKENS
    assert runner.computed == shared + 8 * len("what 0")
    cached = [
        o.cached_tokens for name in outputs for o in outputs[name] if isinstance(o, TokenOutput)
    ]
    assert sorted(cached) == [0] + [shared] * 7


def test_a_conversation_computes_only_what_is_new() -> None:
    core, runner = make_core(n_cells=400, n_batch=64)
    core.add(add("1", picture("x"), "what", max_tokens=3))
    drain(core)
    before = runner.computed
    # The answer "13,12,11": its last token was sampled, never computed.
    core.add(add("2", picture("x"), "what", chr(13), chr(12), "and", max_tokens=1))
    (output,) = [o for o in drain(core)["2"] if isinstance(o, TokenOutput)]
    assert output.cached_tokens == IMAGE_TOKENS + 4 + 2
    assert runner.computed - before == 3
    assert runner.encodes == ["x"]


def test_another_picture_is_never_taken_for_the_first() -> None:
    core, runner = make_core(n_cells=400, n_batch=64, image_bytes=1 << 20)
    for index, name in enumerate("xyxy"):
        core.add(add(str(index), picture(name), "what", max_tokens=1))
        drain(core)
    assert runner.encodes == ["x", "y"]


def test_a_picture_under_another_beginning_is_encoded_once() -> None:
    core, runner = make_core(n_cells=400, n_batch=64, image_bytes=1 << 20)
    for start in ("one", "two"):
        core.add(add(start, start, picture("x"), max_tokens=1))
        (output,) = [o for o in drain(core)[start] if isinstance(o, TokenOutput)]
    assert runner.encodes == ["x"]
    assert [image.cached for image in output.images] == [True]


def test_idle_sequences_beyond_one_a_slot_keep_few_cells() -> None:
    """All steps go through the cells that they have."""
    core, _ = make_core(n_seq=2, n_cells=1000, n_batch=64, idle_cells=60, idle=20)
    for letter in "abcdef":
        core.add(add(letter, letter * 50, max_tokens=1))
        drain(core)
    assert core.scheduler.kv.idle == 2 * 50, "one prompt for each slot, however long"
    for letter in "ghij":
        core.add(add(letter, letter * 10, max_tokens=1))
        drain(core)
    assert core.scheduler.kv.idle == 4 * 10, "more of them where they are short"
    hits = core.scheduler.prefix_hits
    core.add(add("again", "j" * 10 + "!", max_tokens=1))
    drain(core)
    assert core.scheduler.prefix_hits == hits + 10


def test_where_cells_cannot_be_shared_nobody_s_are() -> None:
    """Not those of running sequences either: a state instead of cells has no beginning."""
    core, runner = make_core(n_seq=3, n_cells=400, n_batch=64)
    core.scheduler.prefixes.shares = False
    core.add(add("1", "the same beginning", max_tokens=8))
    core.step()
    for name in "23":
        core.add(add(name, "the same beginning", max_tokens=8))
    drain(core)
    assert runner.computed == 3 * (len("the same beginning") + 7)


def test_idle_sequences_give_way_to_those_that_run() -> None:
    core, _ = make_core(n_seq=1, n_cells=40)
    for index in range(12):
        core.add(add(str(index), chr(65 + index) * 20, max_tokens=5))
        assert text_of(drain(core)[str(index)]) == "20,19,18,17,16,"


_prompts = st.lists(
    st.one_of(st.text("abc", min_size=1, max_size=20), st.builds(picture, st.text("xyz"))),
    min_size=1,
    max_size=3,
)
_events = st.lists(
    st.tuples(_prompts, st.integers(1, 30), st.integers(0, 6), st.booleans()),
    min_size=1,
    max_size=12,
)


def check_told(outputs: list[object], max_tokens: int, n_cells: int, *, aborted: bool) -> None:
    """A request that was not refused is answered rightly, and once unless it was aborted."""
    if isinstance(outputs[0], Rejected):
        return
    ends = [o for o in outputs if isinstance(o, TokenOutput) and o.finish_reason]
    assert len(ends) == 1 or aborted
    if ends:
        total = outputs[0].prompt_tokens  # type: ignore[attr-defined]
        assert text_of(outputs) == countdown(total)[: len(text_of(outputs))]
        assert ends[0].completion_tokens == min(max_tokens, total + 1, n_cells - total)


@pytest.mark.parametrize(
    ("kind", "window", "one_batch", "stored", "least_run"),
    [
        ("plain", 0, 0, 0, 0),
        ("whole", 0, 0, 0, 0),
        ("mrope", 0, 0, 0, 0),
        ("tiled", 0, 0, 0, 0),
        ("plain", 12, 0, 0, 0),
        ("whole", 30, 0, 0, 0),
        ("plain", 0, 100, 0, 0),
        ("tiled", 0, 14, 0, 0),
        ("tiled", 12, 100, 0, 0),
        ("plain", 0, 0, 120, 0),
        ("whole", 30, 0, 500, 0),
        ("mrope", 0, 0, 500, 0),
        ("tiled", 12, 100, 120, 0),
        ("plain", 0, 0, 0, 3),
        ("whole", 0, 0, 120, 2),
        ("tiled", 0, 100, 120, 4),
        ("plain", 30, 0, 300, 3),
    ],
)
@settings(max_examples=120, derandomize=True)
@given(_events, st.integers(1, 4), st.integers(1, 5), st.integers(40, 90), st.integers(10, 24))
def test_nothing_is_lost_leaked_or_told_twice(
    kind: str,
    window: int,
    one_batch: int,
    stored: int,
    least_run: int,
    events: list[tuple[list[object], int, int, bool]],
    n_seq: int,
    idle: int,
    n_cells: int,
    n_batch: int,
) -> None:
    """Random arrivals, lengths, pictures, cancellations and cell pressure."""
    core, runner = make_core(
        n_seq,
        n_cells,
        n_batch,
        idle=idle,
        slow_encodes=True,
        kind=kind,
        window=window,
        encode_at_once=n_batch * (n_seq % 3),
        one_batch=one_batch,
        idle_cells=20 if stored else 2048,
        least_run=least_run,
        store=PromptStore(stored, block=3),
    )
    told: dict[str, list[object]] = {}
    aborted = set()

    def note(outputs: tuple[object, ...]) -> None:
        for output in outputs:
            told.setdefault(output.request_id, []).append(output)  # type: ignore[attr-defined]

    for index, (parts, max_tokens, steps, abort) in enumerate(events):
        name = str(index)
        core.add(add(name, *parts, max_tokens=max_tokens))  # type: ignore[arg-type]
        for step in range(steps):
            if step % 2 and core.pending:  # type: ignore[attr-defined]
                finish_encode(core, runner)
            note(core.step().outputs)
            assert core.scheduler.kv.pinned <= n_cells
            core.scheduler.check_integrity()
            assert core.scheduler.prefixes.store.n_bytes <= stored
        if abort:
            core.abort(AbortRequest(name))
            aborted.add(name)
    for name, outputs in drain(core, runner).items():
        told.setdefault(name, []).extend(outputs)
    for index, (_, max_tokens, _, _) in enumerate(events):
        name = str(index)
        check_told(told.get(name, []), max_tokens, n_cells, aborted=name in aborted)
    assert core.scheduler.kv.pinned == 0
    assert not core.scheduler.waiting
    assert not core.scheduler.running


@settings(max_examples=60)
@given(
    length=st.integers(1, 40),
    pictures=st.integers(0, 1),
    n=st.integers(2, 6),
    slots=st.integers(1, 4),
    aborted=st.integers(-1, 5),
    after=st.integers(0, 4),
)
def test_choices_of_one_request_compute_its_prompt_once(
    length: int, pictures: int, n: int, slots: int, aborted: int, after: int
) -> None:
    core, runner = make_core(slots, n_cells=400, n_batch=64, image_bytes=1 << 20)
    parts = ["a" * length, *[picture("x")] * pictures]
    names = [f"choice-{index}" for index in range(n)]
    for name in names:
        core.add(add(name, *parts, max_tokens=5))
    outputs: dict[str, list[object]] = {}
    for _ in range(after):
        for output in core.step().outputs:
            outputs.setdefault(output.request_id, []).append(output)
    if 0 <= aborted < n:
        core.abort(AbortRequest(names[aborted]))
    for name, more in drain(core).items():
        outputs[name] = outputs.get(name, []) + more
    size = length + IMAGE_TOKENS * pictures
    said = "".join(f"{size - step}," for step in range(min(5, size)))
    kept = [name for index, name in enumerate(names) if index != aborted]
    assert all(text_of(outputs[name]) == said for name in kept)
    # What is not waited for, a few tokens of text, is computed by those that begin at once.
    if size >= 17 or pictures:
        assert sum(runner.prefilled.values()) <= size + n - 1
        if aborted not in range(n):
            assert runner.prefilled == Counter(dict.fromkeys(names, 1) | {names[0]: size})
    assert len(runner.encodes) == pictures
    assert core.scheduler.kv.pinned == 0


def test_a_prompt_may_be_computed_anew() -> None:
    core, runner = make_core(n_cells=400, n_batch=64)
    core.add(add("one", "a" * 30))
    core.add(add("anew", "a" * 30, cache_prompt=False))
    core.add(add("shares", "a" * 30))
    outputs = drain(core)
    assert runner.prefilled == Counter({"one": 30, "anew": 30, "shares": 1})
    assert len({text_of(said) for said in outputs.values()}) == 1
