"""Pictures are taken out of a body before it is parsed; what it says must stay the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.http import body as long_strings
from server.api.http.body import _parse_object
from server.errors import RequestError

URL = "data:image/png;base64," + "QUJD" * 12_000


@pytest.fixture(autouse=True)
def short_ones_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_strings, "_LONG_STRING", 12)


def parsed(raw: str | bytes) -> Any:
    try:
        return _parse_object(raw.encode() if isinstance(raw, str) else raw)
    except RequestError as error:
        return error.code


def plain(raw: str) -> Any:
    try:
        value = json.loads(raw)
    except ValueError:
        return "invalid_json"
    return value if isinstance(value, dict) else "invalid_json"


def test_long_urls_are_not_given_to_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **how: seen.append(text) or real(text, **how))
    body = {"a": URL, "b": [URL, {"c": URL + "1"}], "d": "data:short"}
    assert parsed(json.dumps(body)) == body
    assert len(seen[0]) < 300


@pytest.mark.parametrize(
    "raw",
    [
        '{"a": "data:0123456789"}',
        '{"data:0123456789": 1}',
        '{"a": ["data:0123456789", ["data:0123456780"]], "b": "data:0123456789"}',
        '{"a": "x\\"data:0123456789"}',
        '{"a": "x\\\\"data:0123456789"}',
        '{"a": "x"data:0123456789"}',
        '{"a": "data:01234567\\u0041"}',
        '{"a": "data:01234567\\"9"}',
        '{"a": "data:0123456789',
        '{"a": "data:0123456789"',
        '{"a": "data:0123456789\u20ac"}',
        '{"a": "data:01234\n56789"}',
        '{"a": "data:01234\t56789"}',
        '"data:0123456789"',
        '["data:0123456789"]',
        '{"a": "\u20ac", "b": "data:0123456789", "c": "\u20ac"}',
    ],
)
def test_the_same_is_said_as_without(raw: str) -> None:
    assert parsed(raw) == plain(raw)


def test_a_field_that_is_a_url_may_not_be_given_twice() -> None:
    assert parsed('{"data:0123456789": 1, "data:0123456789": 2}') == "invalid_json"
    assert parsed('{"data:0123456789": 1, "data:0123456780": 2}') == {
        "data:0123456789": 1,
        "data:0123456780": 2,
    }


def test_a_body_of_beginnings_is_parsed_as_it_is() -> None:
    body = {"a": ["data:0123456789"] * 3000}
    assert parsed(json.dumps(body)) == body
    strings = long_strings.LongStrings()
    assert strings.cut(json.dumps(body).encode()).count(b"data:") == 2000


TEXTS = st.text('data:"\\\u20ac\n0', max_size=30) | st.just("data:0123456789") | st.just(URL)
VALUES = st.recursive(
    TEXTS | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=3), st.booleans())
def test_every_object_comes_back_as_it_was(value: dict[str, Any], escaped: bool) -> None:
    assert parsed(json.dumps(value, ensure_ascii=escaped)) == value


@given(st.text('{}[]:,"\\data:0123456789\n ', max_size=60))
def test_whatever_is_no_json_stays_none(text: str) -> None:
    for raw in (text, f'{{"a": {text}}}', f'{{"a": "{text}"}}'):
        found, expected = parsed(raw), plain(raw)
        # A field that is given twice is an error of ours alone.
        assert found == expected or found == "invalid_json"
        assert expected != "invalid_json" or found == expected
