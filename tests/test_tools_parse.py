"""Calls read from an answer as it comes, whatever the cuts between its pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.tools.parse import CallArguments, CallBegin, CallEnd, CallParser, Content, Piece
from server.tools.style import HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, STYLES, ToolStyle

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=6), json_values, max_size=3).map(json.dumps)
calls = st.lists(st.tuples(st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True), objects))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(edges)]


def read(style: ToolStyle, pieces: list[str], *, cut: bool = False) -> list[Piece]:
    parser = CallParser(style)
    return [piece for text in pieces for piece in parser.push(text)] + parser.flush(cut=cut)


def content(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Content))


def called(pieces: list[Piece]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallBegin):
            assert piece.index == len(found)
            found.append((piece.name, ""))
        elif isinstance(piece, CallArguments):
            name, arguments = found[-1]
            assert piece.index == len(found) - 1
            found[-1] = (name, arguments + piece.text)
    return found


@given(
    style=st.sampled_from(STYLES),
    said=st.text(st.characters(exclude_characters="<[{"), max_size=30),
    wanted=calls.filter(bool),
    cuts=st.lists(st.integers(0, 500)),
)
def test_content_and_calls_come_apart_however_they_are_cut(
    style: ToolStyle, said: str, wanted: list[tuple[str, str]], cuts: list[int]
) -> None:
    wanted = wanted if style.several else wanted[:1]
    said = said if style.anywhere else ""
    found = read(style, pieces_of(said + style.write(wanted), cuts))
    assert content(found) == said.rstrip()
    assert called(found) == wanted
    assert sum(isinstance(piece, CallEnd) for piece in found) == len(wanted)
    assert len({piece.id for piece in found if isinstance(piece, CallBegin)}) == len(wanted)


@given(
    style=st.sampled_from(STYLES),
    said=st.text(st.sampled_from('<tool_cal>[TOOL_CALLS]{"name" \n'), max_size=40),
    cuts=st.lists(st.integers(0, 40)),
)
def test_text_without_a_call_comes_through_untouched(
    style: ToolStyle, said: str, cuts: list[int]
) -> None:
    begins = style.start in said if style.anywhere else said.lstrip().startswith(style.start)
    if not begins:
        assert content(read(style, pieces_of(said, cuts))) == said


@given(style=st.sampled_from(STYLES), wanted=calls.filter(bool), end=st.integers(0, 300))
def test_an_answer_cut_short_never_leaks_markup(
    style: ToolStyle, wanted: list[tuple[str, str]], end: int
) -> None:
    wanted = wanted if style.several else wanted[:1]
    found = read(style, list(style.write(wanted)[:end]), cut=True)
    assert content(found) == ""
    for (name, arguments), (whole_name, whole) in zip(called(found), wanted, strict=False):
        assert name == whole_name
        assert whole.startswith(arguments)


def test_a_cut_answer_loses_only_what_may_be_a_call() -> None:
    assert content(read(HERMES, ["2 ", "<", "to"], cut=True)) == "2 "
    assert content(read(HERMES, ["2 ", "<", "to"])) == "2 <to"


def test_arguments_are_sent_as_they_come() -> None:
    parser = CallParser(HERMES)
    assert parser.push('Look.\n<tool_call>\n{"name": "f", "argum') == [Content("Look.")]
    begin, first = parser.push('ents": {"a": "}')
    assert isinstance(begin, CallBegin)
    assert (begin.index, begin.name) == (0, "f")
    assert first == CallArguments(0, '{"a": "}')
    assert parser.push('\\"') == [CallArguments(0, '\\"')]
    assert parser.push('"}}\n</tool_call>') == [CallArguments(0, '"}'), CallEnd(0)]
    assert parser.flush(cut=False) == []


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (MISTRAL_ARGS, '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
        (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
        (LLAMA3, ' {"name" : "f", "parameters" : {"a": 1}}'),
        (HERMES, '<tool_call>{ "name":"f","arguments":{"a": 1} }</tool_call>'),
    ],
)
def test_spellings_of_one_call(style: ToolStyle, text: str) -> None:
    assert called(read(style, list(text))) == [("f", '{"a": 1}')]
    assert content(read(style, list(text))) == ""
