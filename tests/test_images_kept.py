"""Prepared pictures, kept within a bound."""

from __future__ import annotations

from dataclasses import replace

from fakes import VISION
from hypothesis import given
from hypothesis import strategies as st

from server.images.options import ImageOptions
from server.images.prepared import PictureKey, PreparedCache
from server.messages import ImageInput

PICTURE = ImageInput("d", 10, 10, bytes(300), 10, 10, decode_seconds=0.5)
OPTIONS = ImageOptions()
# What one of PICTURE's size takes.
EACH = 300 + 2048


def key(number: int, **changes: object) -> PictureKey:
    return PictureKey(bytes([number]) * 32, VISION, replace(OPTIONS, **changes))


def test_the_least_recently_used_one_goes_first() -> None:
    kept = PreparedCache(3 * EACH)
    for number in range(3):
        kept.put(key(number), PICTURE)
    assert kept.get(key(0)) is not None
    kept.put(key(3), PICTURE)
    assert [kept.get(key(number)) is not None for number in range(4)] == [True, False, True, True]
    assert kept.n_bytes == 3 * EACH


def test_a_picture_that_is_found_was_not_decoded() -> None:
    kept = PreparedCache(EACH)
    kept.put(key(0), PICTURE)
    assert kept.get(key(0)) == replace(PICTURE, decode_seconds=0.0)


def test_none_is_taken_for_another() -> None:
    kept = PreparedCache(10 * EACH)
    kept.put(key(0), PICTURE)
    assert kept.get(key(1)) is None
    assert kept.get(key(0, detail="low")) is None
    assert kept.get(key(0, background=(0, 0, 0))) is None
    assert kept.get(key(0, max_edge=5)) is None
    assert kept.get(replace(key(0), tower=replace(VISION, image_size=336))) is None
    assert kept.get(key(0)) is not None


def test_none_is_kept_where_none_fits() -> None:
    for bound in (0, EACH - 1):
        kept = PreparedCache(bound)
        kept.put(key(0), PICTURE)
        assert (kept.get(key(0)), kept.n_bytes) == (None, 0)


def test_tiles_count() -> None:
    kept = PreparedCache(2 * EACH)
    kept.put(key(0), replace(PICTURE, tiles=(bytes(300), bytes(300))))
    assert kept.n_bytes == EACH + 600


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5000)), max_size=40))
def test_the_bound_holds_whatever_comes(puts: list[tuple[int, int]]) -> None:
    kept, sizes = PreparedCache(8000), {}
    for number, size in puts:
        sizes.setdefault(number, size)
        kept.put(key(number), replace(PICTURE, rgb=bytes(sizes[number])))
        assert kept.n_bytes <= 8000
    there = [sizes[number] + 2048 for number in sizes if kept.get(key(number)) is not None]
    assert kept.n_bytes == sum(there)
