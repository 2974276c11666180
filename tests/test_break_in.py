"""A short form of the break-in: some attempts of each kind, against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.break_in.__main__ import KINDS, break_in
from scripts.break_in.target import Attempts


def test_nothing_of_what_is_tried_succeeds(tmp_path: Path) -> None:
    found = break_in(tmp_path, every=23)
    assert [each.kind for each in found] == list(KINDS)
    for attempts in found:
        assert attempts.tried >= 10, attempts.kind
        assert attempts.broken == [], attempts.kind


def test_what_succeeds_is_kept_and_what_is_permitted_must_work() -> None:
    attempts = Attempts("kind", every=2)
    assert [attempts.due for _ in range(4)] == [False, True, False, True]
    attempts.note(False, "refused")
    attempts.note(True, "served")
    assert (attempts.tried, attempts.broken) == (2, ["'served'"])
    with pytest.raises(AssertionError, match="what is permitted fails"):
        attempts.permitted(False, "the right key")
