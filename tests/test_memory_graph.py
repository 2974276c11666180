"""The allocator of graphs, and the graphs' sums against what llama.cpp reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.memory.estimate.arena import Arena, Tape


def test_results_take_the_holes_that_others_left() -> None:
    tape = Tape()
    first = tape.input(64)
    second = tape.op(128, first)
    third = tape.op(256, second)
    tape.op(64, third)  # fits where the first was
    assert tape.peak() == 64 + 128 + 256


def test_an_operation_in_place_takes_nothing() -> None:
    tape = Tape()
    size = 1024
    source = tape.input(size)
    once = tape.op(size, source)
    tape.op(size, once, inplace=True)
    assert tape.peak() == 2 * size


def test_what_is_used_again_is_not_written_over() -> None:
    tape = Tape()
    source = tape.input(512)
    other = tape.op(512, source, inplace=True)
    tape.op(512, other, source)
    # the first may not write over the input that the second needs
    assert tape.peak() == 3 * 512


def test_a_view_keeps_its_bytes_alive_and_is_never_written_over() -> None:
    tape = Tape()
    base = tape.op(512)
    look = tape.view(base)
    tape.op(512, look, inplace=True)
    assert tape.peak() == 2 * 512


@given(st.lists(st.tuples(st.integers(1, 4096), st.booleans()), min_size=1, max_size=60))
def test_what_is_allocated_never_overlaps(steps: list[tuple[int, bool]]) -> None:
    arena = Arena()
    live: dict[int, int] = {}
    for size, free in steps:
        if free and live:
            offset = next(iter(live))
            arena.give(offset, live.pop(offset))
        offset = arena.take(size)
        end = offset + arena.rounded(size)
        for start, length in live.items():
            assert end <= start or offset >= start + arena.rounded(length)
        live[offset] = size
        assert end <= arena.size
    for offset, size in live.items():
        arena.give(offset, size)
    before = arena.size
    arena.take(before)
    assert arena.size == before  # all holes have become one


@pytest.mark.parametrize("alignment", [32, 64, 256])
def test_sizes_are_rounded_up(alignment: int) -> None:
    tape = Tape()
    tape.op(1, tape.input(1))
    assert tape.peak(alignment) == 2 * alignment
