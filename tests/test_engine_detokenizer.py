"""Tokens to text: whole characters, no part of a stop string."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.output_text import Detokenizer


def feed(
    stop: tuple[str, ...], pieces: list[bytes], *, strip: bool = False
) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(stop, strip_first_space=strip)
    sent = []
    for piece in pieces:
        sent.append(detokenizer.push(piece))
        if detokenizer.stopped:
            break
    return [*sent, detokenizer.flush()], detokenizer.stopped


def test_a_character_in_three_tokens_comes_whole() -> None:
    euro = "€".encode()
    assert feed((), [euro[:1], euro[1:2], euro[2:]])[0] == ["", "", "€", ""]


def test_a_character_that_never_ends_is_replaced_at_the_end() -> None:
    assert feed((), [b"a", "€".encode()[:2]])[0] == ["a", "", "�"]


def test_a_stop_string_over_three_tokens_is_never_sent() -> None:
    sent, stopped = feed(("END",), [b"one E", b"N", b"D two"])
    assert ("".join(sent), stopped) == ("one ", True)


def test_the_stop_string_that_came_first_is_told() -> None:
    detokenizer = Detokenizer(("two", "one", "three"), strip_first_space=False)
    assert detokenizer.push(b"zero one two") == "zero "
    assert detokenizer.stop == "one"


def test_what_only_looked_like_a_stop_string_is_sent_after_all() -> None:
    sent, stopped = feed(("END",), [b"one E", b"N", b"T two"])
    assert ("".join(sent), stopped) == ("one ENT two", False)


def test_held_text_is_sent_at_the_end() -> None:
    assert feed(("END",), [b"one EN"])[0] == ["one ", "EN"]


def test_the_earliest_of_several_stop_strings_counts() -> None:
    sent, _ = feed(("b", "ab"), [b"xxab"])
    assert "".join(sent) == "xx"


def test_the_space_before_the_first_word_is_dropped_once() -> None:
    assert "".join(feed((), [b" Hello", b" you"], strip=True)[0]) == "Hello you"
    assert "".join(feed((), [b" Hello", b" you"])[0]) == " Hello you"


@settings(derandomize=True)
@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_any_cut_into_tokens_gives_the_same_text(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(cuts)]
    sent, _ = feed(tuple(stops), pieces)
    ends = [at for at in map(text.find, stops) if at >= 0]
    if not ends:
        assert "".join(sent) == text
    else:
        # Which of two overlapping stop strings is complete first may depend on the cut;
        # that none is sent does not.
        assert text.startswith("".join(sent))
        assert not any(stop in "".join(sent) for stop in stops)
