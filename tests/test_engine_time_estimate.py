"""How long an encode may be expected to take before the engine counts as stuck."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.heartbeat import MAX_OVERRUN, MIN_SECONDS, CurrentWork, TimeEstimate, Work
from server.engine.llama.ggml import Cuts
from server.engine.request import Picture
from server.engine.vision.encode import EncodeThread, SlicedEncodes
from tests.engine_fakes import picture

UNKNOWN = 30.0


def test_nothing_is_known_at_first_and_then_the_estimate_one_is() -> None:
    estimate = TimeEstimate()
    assert estimate.expected(100, UNKNOWN) == UNKNOWN
    estimate.observe(4.0, 100)
    estimate.observe(2.0, 100)
    assert estimate.expected(100, UNKNOWN) == 4.0
    assert estimate.expected(1, UNKNOWN) == 4.0, "a small one may be in the way of something else"
    assert estimate.expected(200, UNKNOWN) == 16.0, "attention grows with the square"
    assert estimate.expected(10_000, UNKNOWN) == UNKNOWN
    estimate.observe(39.0, 100)
    assert estimate.expected(100, UNKNOWN) == 39.0, "on a slow machine"
    assert TimeEstimate(0.001, 100).expected(100, UNKNOWN) == MIN_SECONDS


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.integers(1, 10**9)), min_size=1),
    st.integers(1, 10**9),
)
def test_what_was_seen_is_expected_again(seen: list[tuple[float, int]], size: int) -> None:
    estimate = TimeEstimate()
    for seconds, each in seen:
        before = estimate.expected(each, seconds)
        estimate.observe(seconds, each)
        assert estimate.expected(size, UNKNOWN) >= min(seconds, MAX_OVERRUN * before)
    assert estimate.expected(size, UNKNOWN) <= estimate.expected(size + 1, UNKNOWN)


def test_one_that_was_held_up_does_not_blind_the_watch() -> None:
    """A container that is paused for an hour in the middle of an encode."""
    estimate = TimeEstimate()
    estimate.observe(2.0, 100)
    estimate.observe(3600.0, 100)
    assert estimate.expected(100, UNKNOWN) == 20.0
    for _ in range(64):
        estimate.observe(2.0, 100)
    assert estimate.expected(100, UNKNOWN) == 2.0
    first = TimeEstimate()
    first.observe(3600.0, 100)
    for _ in range(64):
        first.observe(2.0, 100)
    assert first.expected(100, UNKNOWN) == 2.0, "nor the first one, for good"


def test_the_estimate_part_of_a_piece_of_work_is_what_counts() -> None:
    estimate = TimeEstimate()
    for _ in range(2):
        estimate.observe(5.0, 100)
        for _ in range(200):
            estimate.observe(0.1, 100, part=True)
        assert estimate.expected(100, UNKNOWN) == 5.0
    estimate.observe(7.0, 100, part=True)
    assert estimate.expected(100, UNKNOWN) == 7.0


def image(name: str = "a") -> Picture:
    return Picture(picture(name), 4, 2, 2)


def test_a_sliced_encode_is_expected_to_reach_its_next_cut() -> None:
    cuts = Cuts()
    expected = []

    def encode(pictures: list[object]) -> list[np.ndarray]:
        for _ in range(10):
            if cuts.callback(None, True, None):
                cuts.callback(None, False, None)
        return [np.zeros((4, 2), np.float32) for _ in pictures]

    slices = SlicedEncodes(encode, cuts, target=60.0)

    def called() -> bool:
        expected.append(slices.expected)
        return False

    for _ in range(2):
        slices.submit([image()])
        expected.append(slices.expected)
        slices.encode_next(lambda: None, called, lambda _: True)
    assert expected[0] == UNKNOWN
    assert set(expected[1:]) == {MIN_SECONDS}, "from the first cut on"


class Beats(CurrentWork):
    """Keeps what was expected."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[float] = []

    def __setitem__(self, part: str, work: Work) -> None:
        self.expected.append(work.expected)
        super().__setitem__(part, work)


@pytest.mark.parametrize("together", [1, 3])
def test_an_encode_in_a_thread_is_expected_to_take_what_others_took(together: int) -> None:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    thread = EncodeThread(lambda many: [np.zeros((4, 2), np.float32) for _ in many], done.put)
    thread.work = beats = Beats()
    for _ in range(2):
        thread.submit([image(str(number)) for number in range(together)])
        for _ in range(together):
            done.get(timeout=10)
    thread.close()
    assert beats.expected == [UNKNOWN * together, MIN_SECONDS]
