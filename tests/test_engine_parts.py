"""The engine's small parts: cells, prefixes, the image cache, the pace, the encoding thread."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from engine_fakes import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.llama.positions import Positions
from server.engine.request import ImageSegment, Picture, Request, Segment, TokenSegment
from server.engine.scheduling.kv_cells import KVCache
from server.engine.scheduling.prefix_cache import PrefixCache
from server.engine.scheduling.prompt_keys import common_prefix, keys_of
from server.engine.scheduling.step import SMALLEST_CHUNK, Pace
from server.engine.vision.encode import EncodeDone, EncodeThread
from server.engine.vision.encoders import ImageCache
from server.messages import ImageInput
from server.messages.sampling import SamplingParams


def text(words: str) -> TokenSegment:
    return TokenSegment(np.array([ord(letter) for letter in words], np.int32))


def request(*segments: Segment) -> Request:
    made = Request("r", segments, SamplingParams(), 0.0, 1)
    made.keys = keys_of(segments)
    return made


def image(name: str, n_tokens: int = 4) -> ImageSegment:
    return ImageSegment(Picture(picture(name), n_tokens, 2, 2), n_tokens)


def test_shared_cells_are_counted_once_and_freed_last() -> None:
    kv = KVCache(n_seq=3, n_cells=10)
    first = kv.open()
    kv.take(first, 4)
    second = kv.open()
    kv.share(first, second, 3)
    kv.take(second, 2)
    assert (kv.free, kv.pinned) == (4, 6)
    kv.make_idle(first)
    assert (kv.free, kv.pinned) == (4, 5)
    assert kv.unpinned(first, 4) == 1
    kv.close(first)
    assert (kv.free, kv.pinned) == (5, 5)
    kv.make_idle(second)
    kv.close(second)
    assert (kv.free, kv.pinned) == (10, 0)


@settings(derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=40))
def test_no_cell_is_lost_or_given_twice(steps: list[tuple[int, int]]) -> None:
    kv = KVCache(n_seq=5, n_cells=24)
    held: dict[int, set[int]] = {}
    for action, number in steps:
        if action == 0 and kv.has_sequence:
            held[kv.open()] = set()
        elif action == 1 and held and kv.free >= number:
            kv.take(max(held), number)
        elif action == 2 and len(held) > 1 and kv.has_sequence:
            source, target = min(held), kv.open()
            kv.share(source, target, number)
            held[target] = set()
        elif action == 3 and held:
            victim = min(held)
            kv.make_idle(victim)
            kv.close(victim)
            del held[victim]
        cells = [cell for seq_id in held for cell in kv._cells[seq_id]]
        assert kv.free + len(set(cells)) == 24
        assert kv.pinned == len(set(cells))


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ([text("abc")], [text("abd")], 2),
        ([text("abc")], [text("ab"), text("c")], 3),
        ([image("x"), text("a")], [image("x"), text("b")], 4),
        ([image("x")], [image("y")], 0),
        ([text("a"), image("x")], [text("a"), text("b")], 1),
        ([], [text("a")], 0),
    ],
)
def test_prompts_share_what_is_the_same_from_the_start(
    one: list[Segment], other: list[Segment], shared: int
) -> None:
    assert common_prefix(keys_of(one), keys_of(other)) == shared


def test_the_keys_of_a_picture_hold_110_bits_of_its_hash() -> None:
    segment = image("x", 2)
    digest = int(hashlib.sha256(b"x").hexdigest(), 16)
    for bit in (16, 40, 61, 62, 90, 124):
        other = image("x", 2)
        object.__setattr__(other.picture.image, "digest", f"{digest ^ (1 << bit):064x}")
        assert common_prefix(keys_of([segment]), keys_of([other])) == 0, bit


def test_a_longer_sequence_makes_its_beginning_superfluous() -> None:
    cache = PrefixCache()
    assert cache.add(1, keys_of([text("ab")])) == []
    assert [entry.seq_id for entry in cache.add(2, keys_of([text("abc")]))] == [1]
    assert cache.add(3, keys_of([text("xyz")])) == []
    match = cache.find(request(text("abcd")), running=[])
    assert (match.seq_id, match.count) == (2, 3)
    assert cache.pop_victim().seq_id == 2


def test_the_last_position_of_a_prompt_is_always_computed() -> None:
    cache = PrefixCache()
    cache.add(1, keys_of([text("abc")]))
    assert cache.find(request(text("abc")), running=[]).count == 2


@pytest.mark.parametrize(
    ("computed", "shared"),
    # "ab", a picture of 4 tokens in 2 positions, "cd": the picture's tokens go together.
    [(1, 1), (2, 2), (4, 2), (5, 2), (6, 6), (7, 7)],
)
@pytest.mark.parametrize("kind", ["whole", "mrope"])
def test_a_picture_that_cannot_be_divided_is_shared_whole(
    kind: str, computed: int, shared: int
) -> None:
    places = Positions(np.array([[2, 2, 2, 2], [2, 2, 3, 3], [2, 3, 2, 3], [0] * 4]), 2)
    seen = image("x")
    segment = replace(seen, whole=True) if kind == "whole" else replace(seen, positions=places)
    first, second = (request(text("ab"), segment, text("cd")) for _ in range(2))
    first.num_computed = computed
    match = PrefixCache().find(second, [first])
    assert match.count == shared
    skipped = 2 if kind == "mrope" and shared >= 6 else 0
    assert second.position_at(match.count) == shared - skipped


def test_the_image_cache_drops_the_oldest_beyond_its_bytes() -> None:
    rows = np.zeros((4, 2), np.float32)
    cache = ImageCache(max_bytes=2 * rows.nbytes)
    cache.put("a", rows)
    cache.put("b", rows)
    assert cache.get("a") is rows
    cache.put("c", rows)
    assert cache.get("b") is None
    assert (cache.queries, cache.hits, cache.n_bytes) == (2, 1, 2 * rows.nbytes)
    cache.put("huge", np.zeros((100, 100), np.float32))
    assert cache.get("huge") is None
    assert cache.get("c") is rows


def test_chunks_take_the_target_time_at_the_speed_that_was_seen() -> None:
    pace = Pace(target=0.1, positions_per_second=1000)
    assert pace.chunk == 100
    for _ in range(50):
        pace.observe(100, 0.05)
    assert 195 <= pace.chunk <= 200
    for _ in range(50):
        pace.observe(1, 0.05)  # a decode says nothing about prefill, but takes of the target
    assert 95 <= pace.chunk <= 105
    assert Pace(target=0.001, positions_per_second=10).chunk == SMALLEST_CHUNK
    pace.hurried = True  # an encode's slice was before this step
    assert pace.chunk == 0
    pace.observe(1, 0.01)
    assert pace.chunk > 0


@pytest.mark.parametrize("together", [False, True])
def test_the_thread_encodes_in_order_and_reports_failures(together: bool) -> None:
    """One that fails does no harm to those that were encoded with it."""
    done: queue.SimpleQueue[EncodeDone] = queue.SimpleQueue()

    def encode(pictures: Sequence[ImageInput]) -> list[np.ndarray]:
        if any(picture.rgb == b"bad" for picture in pictures):
            raise RuntimeError("no good")
        return [np.zeros((4, 2), np.float32) for _ in pictures]

    thread = EncodeThread(encode, done.put)
    pictures = [image("good").picture, image("bad").picture, image("long", 5).picture]
    for each in ([[one] for one in pictures], [pictures])[together]:
        thread.submit(each)
    results = [done.get(timeout=10) for _ in pictures]
    thread.close()
    assert [result.picture for result in results] == pictures
    assert [result.error for result in results] == [
        "",
        "no good",
        "counted 5 picture tokens, encoded 4",
    ]
    assert [result.rows is None for result in results] == [False, True, True]
