"""Prompts that leave the KV cache for the RAM, and come back."""

from __future__ import annotations

import numpy as np
import pytest
from engine_fakes import add, drain, make_core, picture, text_of

from server.engine.scheduling.prompt_keys import Keys
from server.engine.scheduling.ram_store import PromptStore, StoredPrompt
from server.messages import TokenOutput


def keys(text: str) -> Keys:
    found = np.zeros((len(text), 2), np.int64)
    found[:, 0] = [ord(letter) for letter in text]
    return found


def put(store: PromptStore, text: str) -> StoredPrompt:
    prompt = store.add(keys(text))
    assert prompt is not None
    store.fill(prompt, np.zeros(prompt.size, np.uint8), 0.0)
    return prompt


def shared(text: str) -> object:
    def usable(prompt: StoredPrompt) -> int:
        pairs = zip(prompt.keys[:, 0], keys(text)[:, 0], strict=False)
        return next((i for i, (one, two) in enumerate(pairs) if one != two), len(prompt.keys))

    return usable


def find(store: PromptStore, text: str) -> StoredPrompt | None:
    return store.find(store.blocks(keys(text)), shared(text))[0]  # type: ignore[arg-type]


def test_the_longest_beginning_is_found_by_whole_blocks() -> None:
    store = PromptStore(1000, block=4)
    short, long = put(store, "system|one"), put(store, "system|two and more")
    assert find(store, "system|two and less") is long
    assert find(store, "system|one!") is short
    assert find(store, "sys") is None
    assert find(store, "another") is None


def test_what_is_used_least_goes_first_and_the_rest_is_still_found() -> None:
    store = PromptStore(40, cell_bytes=2, block=4)
    first, second = put(store, "same|first"), put(store, "same|other")
    store.touch(first, 4)
    put(store, "unlike it")
    assert second not in store.prompts
    assert store.n_bytes == 2 * (10 + 9)
    assert find(store, "same|x") is first, "found by the block that the other had, too"


def test_a_prompt_makes_its_beginnings_superfluous() -> None:
    store = PromptStore(1000, block=4)
    put(store, "the beginning")
    long = put(store, "the beginning and the end")
    assert store.prompts == [long]
    assert store.covers(keys("the beginning and"))
    assert not store.covers(keys("the beginning and"), exact=True)
    assert not store.covers(keys("the beginning or"))
    kept = store.add(keys("the beginning and the end and more"), replaces=False)
    assert store.prompts == [long, kept]


def test_what_is_short_or_too_large_or_not_copied_yet_is_no_use() -> None:
    store = PromptStore(20, block=4)
    assert store.add(keys("abc")) is None
    assert store.add(keys("a" * 21)) is None
    begun = store.add(keys("a" * 20))
    assert begun is not None
    assert find(store, "a" * 20) is None
    store.fill(begun, np.zeros(21, np.uint8), 0.0)
    assert (store.prompts, store.n_bytes) == ([], 0), "it has more bytes than were expected"
    assert PromptStore().add(keys("a" * 100)) is None, "without room there is no store"


def test_prompts_beyond_the_cells_wait_in_the_ram() -> None:
    core, runner = make_core(
        n_seq=2, n_cells=300, n_batch=64, idle_cells=60, store=PromptStore(10_000, block=8)
    )
    first = ["look: ", picture("x"), " what is it? Tell me all."]
    core.add(add("first", *first, max_tokens=5))
    drain(core)
    for letter in "abcd":
        core.add(add(letter, letter * 40, max_tokens=1))
        drain(core)
    assert core.scheduler.kv.idle <= 60
    computed, encodes = runner.computed, len(runner.encodes)
    core.add(add("again", *first, "35,34,33,32,", " And now?", max_tokens=3))
    outputs = drain(core)["again"]
    assert runner.swaps == 1
    assert len(runner.encodes) == encodes, "its picture is neither encoded nor computed again"
    said = next(output for output in outputs if isinstance(output, TokenOutput))
    assert said.cached_tokens == 40
    assert runner.computed - computed == 12 + 9 + 2
    assert core.scheduler.prefixes.store.hits == 40
    assert core.scheduler.kv.pinned == 0


def test_the_last_prompt_stays_in_its_cells_however_long() -> None:
    core, runner = make_core(n_cells=300, n_batch=64, idle_cells=0, store=PromptStore(10_000))
    core.add(add("long", "l" * 100, max_tokens=1))
    drain(core)
    core.add(add("on", "l" * 100 + " and on", max_tokens=1))
    drain(core)
    assert runner.swaps == 0
    assert runner.computed == 100 + 7


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_nobody_s_token_waits_for_a_copy_that_takes_long(seconds: float) -> None:
    store = PromptStore(10_000, block=8)
    core, runner = make_core(n_seq=3, n_cells=600, n_batch=64, idle_cells=0, store=store)
    runner.copy_seconds = seconds
    core.scheduler.pace.target = 1.0
    for name in ("one", "two"):
        core.add(add(name, name * 20, max_tokens=1))
        drain(core)
    assert len(store.prompts) == 1, "nobody waits: it is copied, and its time is taken"
    core.add(add("stream", "s" * 100, max_tokens=50))
    while not core.scheduler.running or not core.scheduler.running[0].decoding:
        core.step()
    for name in ("three", "four", "nine"):
        core.add(add(name, name * 20, max_tokens=1))
        while core.scheduler.find(name):
            core.step()
    core.step()
    assert len(store.prompts) == (1 if seconds else 4)
    assert core.scheduler.kv.idle == (319 if seconds else 80), "they stay while there are cells"
    assert text_of(drain(core)["stream"])
    assert len(store.prompts) == 5, "nobody waits any more"


def test_nor_for_one_that_a_prompt_needs_the_cells_of() -> None:
    store = PromptStore(10_000, block=8)
    core, runner = make_core(n_seq=3, n_cells=300, n_batch=64, idle_cells=170, store=store)
    core.scheduler.pace.target = 1.0
    runner.copy_seconds = 1000.0
    for name in ("one", "two", "three"):
        core.add(add(name, name * 20, max_tokens=1))
        drain(core)
    assert find(store, "one" * 20)
    core.add(add("stream", "s" * 100, max_tokens=90))
    drain(core)
    assert find(store, "two" * 20) is None, "it lost its cells while somebody decoded"
    assert find(store, "three" * 20), "it left when nobody did any more"


@pytest.mark.parametrize(("slots", "people"), [(1, 2), (2, 3), (4, 5)])
def test_who_waits_for_a_slot_finds_the_prompt_that_it_goes_on_from(
    slots: int, people: int
) -> None:
    """The slot is free when an answer ends, and then too many cells are idle: whose go first?"""
    store = PromptStore(1_000_000, block=8)
    core, runner = make_core(slots, 5000, 256, idle_cells=60, store=store)
    core.scheduler.pace.target = 1.0
    said = {name: name * 100 for name in "abcdefgh"[:people]}
    for name, text in said.items():
        core.add(add(f"{name}0", text, max_tokens=3))
    turns = dict.fromkeys(said, 0)
    for _ in range(900):
        for output in core.step().outputs if core.has_work else ():
            name = output.request_id[0]
            if isinstance(output, TokenOutput) and output.finish_reason and turns[name] < 4:
                turns[name] += 1
                said[name] += str(turns[name]) * 10
                core.add(add(f"{name}{turns[name]}", said[name], max_tokens=3))
    later = [count for name, count in runner.prefilled.items() if not name.endswith("0")]
    assert len(later) == 4 * people
    assert max(later) < 20


def test_a_free_share_comes_before_a_copy_that_has_no_room() -> None:
    store = PromptStore(1_000_000, block=8)
    core, _ = make_core(n_seq=3, n_cells=240, n_batch=256, idle_cells=0, store=store)
    core.scheduler.pace.target = 1.0
    core.add(add("old", "s" * 100 + "t" * 20, max_tokens=1))
    drain(core)
    core.add(add("x", "x" * 60, max_tokens=1))
    drain(core)
    assert len(store.prompts) == 1
    core.add(add("running", "s" * 100, max_tokens=60))
    for _ in range(4):
        core.step()
    core.add(add("next", "s" * 100 + "t" * 20 + "u" * 20, max_tokens=1))
    for _ in range(5):
        core.step()
    assert core.scheduler.find("next") is None, "it needs 41 cells with those that it shares"


def test_a_copy_must_be_faster_than_to_compute() -> None:
    store = PromptStore(1_000_000, block=8)
    core, runner = make_core(n_seq=2, n_cells=3000, n_batch=256, idle_cells=0, store=store)
    for name, text in (("book", "l" * 10 + "b" * 2000), ("x", "x" * 30)):
        core.add(add(name, text, max_tokens=1))
        drain(core)
    (book,) = store.prompts
    store.copied_back(book, 100.0)
    core.scheduler.pace.speed = 1000.0
    core.add(add("page", "l" * 10 + "b" * 1000, max_tokens=1))
    drain(core)
    assert runner.swaps == 0, "twenty seconds for a thousand positions"
    core.scheduler.pace.speed = 10.0
    core.add(add("another", "l" * 10 + "b" * 1500 + "!", max_tokens=1))
    drain(core)
    assert runner.swaps == 1


def test_of_prompts_with_one_beginning_that_is_found_which_is_of_use() -> None:
    """With a sliding window only all of a long prompt can be taken, however it goes on."""
    store = PromptStore(1000, block=4)
    first = put(store, "turn one of it all!!")
    other = store.add(keys("turn one of it all!! a branch"), replaces=False)
    assert other is not None
    store.fill(other, np.zeros(other.size, np.uint8), 0.0)

    def gain(prompt: StoredPrompt) -> int:
        return len(prompt.keys) if prompt is first else 0

    found, won = store.find(store.blocks(keys("turn one of it all!! and more")), gain)
    assert found is first
    assert won == len(first.keys)
    assert store.covers(keys("turn one of it all!!"), exact=True)


def test_without_any_room_each_free_slot_keeps_its_last_prompt() -> None:
    core, runner = make_core(n_seq=2, n_cells=300, n_batch=64, idle_cells=0)
    for letter in "abc":
        core.add(add(letter, letter * 50, max_tokens=1))
        drain(core)
    assert core.scheduler.kv.idle == 2 * 50
    assert not runner.swapped


def test_a_prompt_of_more_cells_than_are_free_is_computed_instead() -> None:
    """For a moment all of a copy is in the cache, whatever part of it is wanted."""
    store = PromptStore(10_000, block=8)
    core, runner = make_core(n_seq=2, n_cells=100, n_batch=64, idle_cells=0, store=store)
    core.add(add("book", "b" * 80, max_tokens=1))
    drain(core)
    core.add(add("stream", "s" * 40, max_tokens=20))
    core.step()
    assert len(store.prompts) == 1, "the cells were needed"
    core.add(add("chapter", "b" * 20, max_tokens=1))
    assert text_of(drain(core)["chapter"]) == "20,"
    assert runner.swaps == 0


def test_one_is_copied_a_step_and_none_while_a_lone_prompt_is_computed() -> None:
    core, runner = make_core(8, 3000, 200, idle_cells=0, store=PromptStore(10_000, block=8))
    for letter in "abcd":
        core.add(add(letter, letter * 40, max_tokens=2))
    copied = []
    while core.has_work:
        core.step()
        copied.append(len(runner.swapped))
    assert copied[-4:] == [0, 1, 2, 3], "they ended together; the last one stays"
    for letter in "xy":
        core.add(add(letter, letter * 40, max_tokens=2))
    while core.scheduler.running or core.scheduler.waiting:
        core.step()
    core.add(add("alone", "!" * 40, max_tokens=3))
    before = len(runner.swapped)
    outputs = core.step().outputs
    assert any(isinstance(output, TokenOutput) for output in outputs)
    assert len(runner.swapped) == before, "its first token came first"
    drain(core)
    assert len(runner.swapped) == before + 3
