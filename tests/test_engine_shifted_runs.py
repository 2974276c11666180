"""--cache-reuse: what follows a change in a prompt is taken from another one, and shifted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from engine_fakes import IMAGE_TOKENS, FakeRunner, add, drain, make_core, picture, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.core import EngineCore
from server.engine.request import ImageSegment, Request, ShiftedRun
from server.engine.scheduling.prompt_keys import keys_of
from server.engine.scheduling.ram_store import PromptStore
from server.engine.scheduling.shifted_runs import RunFinder, window_hashes
from server.messages import AbortRequest, ImageInput, TokenOutput
from server.messages.sampling import SamplingParams

RULES = "be careful with shapes and say what you see, "
Parts = tuple[str | ImageInput, ...]


def ask(core: EngineCore, name: str, *parts: str | ImageInput, **sampling: object) -> int:
    """Asks; the answer is right. Returns how many tokens were reused."""
    core.add(add(name, *parts, max_tokens=4, **sampling))
    outputs = drain(core)[name]
    size = sum(IMAGE_TOKENS if isinstance(part, ImageInput) else len(part) for part in parts)
    assert text_of(outputs).startswith(f"{size},")
    return next(o for o in outputs if isinstance(o, TokenOutput)).cached_tokens


def reusing(**settings: object) -> tuple[EngineCore, FakeRunner]:
    chosen: dict[str, object] = {"n_seq": 2, "n_cells": 400, "least_run": 8} | settings
    return make_core(**chosen)  # type: ignore[arg-type]


def test_a_changed_beginning_leaves_the_rest_in_use() -> None:
    core, runner = reusing()
    assert ask(core, "first", "id=eb6c6; ", RULES, "hi") == 0
    run = len("; ") + len(RULES) + len("h")
    assert ask(core, "second", "id=0123457; ", RULES, "hi") == len("id=") + run
    assert runner.prefilled["second"] == len("0123457") + 1, "what differs, and the last token"
    assert runner.shifted == run


def test_behind_a_change_of_the_same_length_cells_are_shared_and_not_shifted() -> None:
    core, runner = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    free = core.scheduler.kv.free
    run = len("; ") + len(RULES) + len("h")
    assert ask(core, "second", "id=0aaa9; ", RULES, "hi") == len("id=") + run
    assert runner.prefilled["second"] == len("0aaa9") + 1
    assert runner.shifted == 0
    assert free - core.scheduler.kv.free == len("0aaa9") + 1 + 3, "3 tokens of the answer"


def test_a_longer_or_shorter_beginning_shifts_the_rest() -> None:
    for change in ("id=0123456789abc; ", "id=; ", ""):
        core, runner = reusing()
        ask(core, "first", "id=eb6c6; ", RULES, "hi")
        assert ask(core, "second", change, RULES, "hi") >= len(RULES)
        assert runner.shifted >= len(RULES) - 1
        assert ask(core, "first again", "id=eb6c6; ", RULES, "hi") == len(RULES) + 11


def test_off_shifts_nothing() -> None:
    core, runner = reusing(least_run=0)
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    assert ask(core, "second", "id=0aaa9; ", RULES, "hi") == 3
    assert runner.shifted == 0


def test_a_run_shorter_than_the_least_is_computed() -> None:
    core, runner = reusing(least_run=len(RULES) + 10)
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    assert ask(core, "second", "id=0aaa9; ", RULES, "hi") == 3
    assert runner.shifted == 0


def test_several_changes_leave_several_runs() -> None:
    core, runner = reusing(n_cells=600)
    rest = "the second part is about colours, and as long as the first one. "
    ask(core, "first", "id=1; ", RULES, "Monday; ", rest, "hi")
    cached = ask(core, "second", "id=23; ", RULES, "a Sunday in May; ", rest, "hi")
    assert cached >= len(RULES) + len(rest)
    assert runner.shifted >= len(RULES) + len(rest) - 2
    assert runner.prefilled["second"] < 30


def test_a_prompt_in_the_ram_serves_as_well() -> None:
    store = PromptStore(10_000, block=4)
    core, runner = reusing(store=store, idle_cells=10)
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    ask(core, "other", "something else altogether!")
    assert not [e for e in core.scheduler.prefixes.entries if len(e.keys) > 40], "it left the cache"
    assert ask(core, "second", "id=0123456789; ", RULES, "hi") >= len(RULES)
    assert runner.shifted >= len(RULES)
    assert store.hits >= len(RULES)


def test_a_request_that_still_runs_serves_as_well() -> None:
    core, runner = reusing()
    core.add(add("first", "id=eb6c6; ", RULES, "hi", max_tokens=40))
    for _ in range(10):
        core.step()
    core.add(add("second", "id=0123456789; ", RULES, "hi", max_tokens=4))
    outputs = drain(core)
    assert text_of(outputs["second"]).startswith(f"{len(RULES) + 17},")
    assert runner.prefilled["second"] < 25


def test_a_whole_picture_is_shifted_and_not_encoded_again() -> None:
    for kind in ("plain", "whole", "tiled"):
        core, runner = reusing(kind=kind, image_bytes=0)
        ask_of(core, "first", "id=1; look at this ", picture("a"), " and say what it is")
        encodes = list(runner.encodes)
        ask_of(core, "second", "id=2345; look at this ", picture("a"), " and say what it is")
        assert runner.encodes == encodes == ["a"]
        assert runner.prefilled["second"] < 12


def ask_of(core: EngineCore, name: str, *parts: str | ImageInput) -> None:
    core.add(add(name, *parts, max_tokens=4))
    drain(core)


def test_another_picture_is_encoded_and_never_cut() -> None:
    core, runner = reusing(kind="plain")
    ask_of(core, "first", "id=1; look at this ", picture("a"), " and say what it is, please")
    ask_of(core, "second", "id=2345; look at this ", picture("b"), " and say what it is, please")
    assert runner.encodes == ["a", "b"]
    assert runner.shifted > 30


def test_who_wants_the_prompt_computed_gets_that() -> None:
    core, runner = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    assert ask(core, "second", "id=0aaa9; ", RULES, "hi", cache_prompt=False) == 0
    assert ask(core, "third", "id=07779; ", RULES, "hi", prompt_logprobs=0) == 0
    assert runner.shifted == 0


def test_a_preempted_request_without_a_cache_takes_no_others_runs() -> None:
    core, _ = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    for wants_cache in (True, False):
        request = _request([f"id=0123456; {RULES}hi"], "plain", cache_prompt=wants_cache)
        request.output_tokens = [1, 2]
        assert bool(core.scheduler.prefixes.find_runs(request, []).runs) == wants_cache


def test_an_abort_before_the_run_is_joined_frees_its_cells() -> None:
    core, runner = reusing(n_batch=4)
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    core.add(add("second", "id=0123456789012; ", RULES, "hi"))
    core.step()
    held = core.scheduler.running[0].shifted
    assert held is not None
    assert held.num_left >= len(RULES)
    request = core.scheduler.running[0]
    left = request.num_tokens - request.num_computed - held.num_left
    assert request.num_remaining == left < 20, "others are not held back for what it has"
    core.abort(AbortRequest("second"))
    drain(core)
    assert core.scheduler.kv.pinned == 0
    assert runner.shifted >= len(RULES)


def test_a_full_cache_gives_up_the_source_once_it_is_copied() -> None:
    core, runner = reusing(n_cells=80)
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    assert ask(core, "second", "id=0123456789; ", RULES, "hi") >= len(RULES)
    assert runner.shifted >= len(RULES)


def test_a_joined_run_needs_no_sequence_of_its_own() -> None:
    core, runner = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    core.add(add("second", "id=0123456789012; ", RULES, "hi"))
    for _ in range(5):
        core.step()
    assert core.scheduler.running[0].decoding
    assert core.scheduler.running[0].shifted is None
    assert runner.shifted


def test_a_shift_that_takes_longer_than_the_tokens_is_not_made() -> None:
    core, runner = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    core.scheduler.pace.speed = 1.0
    core.scheduler.prefixes.shift_seconds = 2.0 * len(RULES)
    assert ask(core, "second", "id=0123456; ", RULES, "hi") == 3
    assert runner.shifted == 0
    core.scheduler.pace.speed = 1.0
    assert ask(core, "third", "id=abcdefg; ", RULES, "hi") > 3, "of equal length: no shift"


def test_a_shift_does_not_make_the_model_seem_slow() -> None:
    core, _ = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    core.scheduler.pace.speed, core.scheduler.prefixes.shift_seconds = 1.0, 0.5
    seen: list[int] = []
    core.scheduler.pace.observe = lambda count, _: seen.append(count)  # type: ignore[method-assign]
    core.add(add("second", "id=0123456; ", RULES, "hi", max_tokens=1))
    drain(core)
    assert seen == [1], "seven tokens beside the shift do not count"


def test_metrics_count_what_was_reused() -> None:
    core, _ = reusing()
    ask(core, "first", "id=eb6c6; ", RULES, "hi")
    cached = ask(core, "second", "id=0aaa9; ", RULES, "hi")
    assert core.scheduler.prefix_hits == cached
    assert core.scheduler.prefix_queries == 2 * (len(RULES) + 12)


_parts = st.lists(
    st.one_of(st.text("ab", min_size=1, max_size=12), st.builds(picture, st.sampled_from("xy"))),
    min_size=1,
    max_size=5,
)


def _request(parts: list[str | ImageInput], kind: str, *, cache_prompt: bool = True) -> Request:
    segments = FakeRunner(kind=kind).tokenize(parts)
    request = Request("r", segments, SamplingParams(cache_prompt=cache_prompt), 0.0, 1)
    request.keys = keys_of(segments)
    return request


@settings(max_examples=300, derandomize=True)
@given(_parts, _parts, st.integers(1, 6), st.integers(0, 9), st.sampled_from(["plain", "tiled"]))
def test_runs_are_equal_and_in_order_and_never_cut_a_picture(
    one: list[str | ImageInput],
    other: list[str | ImageInput],
    least: int,
    computed: int,
    kind: str,
) -> None:
    source, wanted = _request(one, kind), _request(other, kind)
    wanted.num_computed = min(computed, len(wanted.keys) - 1)
    runs = RunFinder(wanted, least).runs_in(source.keys)
    before = ShiftedRun(0, wanted.num_computed, 0)
    for run in runs:
        assert run.count >= least
        assert run.start > before.end, "a token is computed before it"
        assert run.source >= before.source_end
        same = source.keys[run.source : run.source_end] == wanted.keys[run.start : run.end]
        assert same.all()
        before = run
    assert before.end < len(wanted.keys) or not runs
    taken = {index for run in runs for index in range(run.start, run.end)}
    rows: Counter[object] = Counter()
    index = 0
    for part in wanted.segments:
        if isinstance(part, ImageSegment):
            inside = taken & set(range(index, index + part.size))
            rows[part.picture] += len(inside)
        index += part.size
    assert set(rows.values()) <= {0, IMAGE_TOKENS}


@settings(max_examples=200, derandomize=True)
@given(
    before=st.text("ab", max_size=20),
    instead=st.text("cd", min_size=1, max_size=20),
    run=st.permutations("efghijklmnopqrstuvw"),
    least=st.integers(1, 18),
)
def test_a_run_of_the_least_size_is_found_wherever_it_is(
    before: str, instead: str, run: list[str], least: int
) -> None:
    same = "".join(run[:least])
    source, wanted = (
        _request([f"{before}{same}"], "plain"),
        _request([f"{instead}{same}."], "plain"),
    )
    assert RunFinder(wanted, least).runs_in(source.keys) == [
        ShiftedRun(len(before), len(instead), least)
    ]
    assert not RunFinder(wanted, least + 1).runs_in(source.keys)


@settings(max_examples=100, derandomize=True)
@given(st.text("ab", min_size=1, max_size=40), st.integers(1, 6))
def test_windows_have_one_hash_exactly_if_they_are_equal(text: str, size: int) -> None:
    keys = np.array([[ord(letter), ord(letter) // 2] for letter in text], np.int64)
    hashes = window_hashes(keys, size).tolist()
    windows = [text[start : start + size] for start in range(len(text) - size + 1)]
    assert len(hashes) == len(windows)
    pairs = dict(zip(windows, hashes, strict=True))
    assert [pairs[window] for window in windows] == hashes
    assert len(set(hashes)) == len(set(windows))


@pytest.mark.parametrize("window", [12, 60])
def test_with_a_sliding_window_only_whole_prompts_are_a_source(window: int) -> None:
    core, runner = reusing(window=window, store=PromptStore(10_000, block=4))
    prompt = "abcdefghijklmnopqrstuvwxyz"
    ask(core, "first", "1; ", prompt, "hi")
    ask(core, "second", "23; ", prompt, "hi")
    assert (runner.shifted > 20) == (window == 60)
