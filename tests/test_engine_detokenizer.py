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


def test_the_stop_string_may_be_a_part_of_the_answer() -> None:
    detokenizer = Detokenizer(("END",), strip_first_space=False, include_stop=True)
    assert "".join(map(detokenizer.push, [b"one E", b"N", b"D two"])) == "one END"
    assert detokenizer.stopped


def test_stop_strings_are_looked_for_behind_the_first_tokens() -> None:
    detokenizer = Detokenizer(("a",), strip_first_space=False, min_tokens=2)
    assert [detokenizer.push(piece) for piece in (b"a", b"a", b"b", b"a")] == ["a", "a", "b", ""]
    assert detokenizer.stopped


@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=4), st.text("ab", max_size=12))
def test_what_is_held_back_is_the_longest_beginning_of_a_stop(stops: list[str], text: str) -> None:
    detokenizer = Detokenizer(tuple(stops), strip_first_space=False)
    detokenizer.push(text.encode())
    if not detokenizer.stopped:
        held = text[detokenizer.shown :]
        tails = {text[at:] for at in range(len(text))}
        begun = [tail for tail in tails if any(stop.startswith(tail) for stop in stops)]
        assert len(held) == max(map(len, begun), default=0)
