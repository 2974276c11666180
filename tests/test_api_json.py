"""Bodies are parsed by jiter; what they say must be what the standard library reads."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from fakes import FakeEngine, call, chat
from hypothesis import given
from hypothesis import strategies as st

from server.api.app import create_app
from server.api.http.body import _has_long_digits, _parse_object
from server.api.options import ApiOptions
from server.errors import RequestError

URL = "data:image/png;base64," + "QUJD" * 12_000


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


@pytest.mark.parametrize(
    "raw",
    [
        '{"a": "data:0123456789"}',
        '{"a": "x\\"data:0123456789"}',
        '{"a": "x\\\\"data:0123456789"}',
        '{"a": "x"data:0123456789"}',
        '{"a": "data:01234567\\u0041"}',
        '{"a": "data:0123456789',
        '{"a": "data:0123456789"',
        '{"a": "data:0123456789\u20ac"}',
        '{"a": "data:01234\n56789"}',
        '{"a": "data:01234\t56789"}',
        '{"a": "\\ud83d\\ude00"}',
        '{"a": "\\u0000"}',
        '"data:0123456789"',
        '["data:0123456789"]',
        '{"a": 1e5, "b": -0.0, "c": 12345678901234567890123}',
        '{"a": 01}',
        '{"a": 1.}',
        '{"a": 1} {}',
        "\ufeff{}",
        " {} ",
    ],
)
def test_the_same_is_read_as_by_the_standard_library(raw: str) -> None:
    assert parsed(raw) == plain(raw)


@pytest.mark.parametrize("raw", ['{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}'])
def test_what_is_no_number_in_json_is_refused(raw: str) -> None:
    assert parsed(raw) == "invalid_json"


def test_a_field_may_not_be_given_twice() -> None:
    for raw in ('{"a": 1, "a": 2}', '{"x": [{"a": 1, "a": 1}]}', '{"a": 1, "\\u0061": 2}'):
        with pytest.raises(RequestError, match='duplicate key "a"'):
            _parse_object(raw.encode())
    assert parsed('{"a": 1, "b": {"a": 2}}') == {"a": 1, "b": {"a": 2}}


def test_the_reason_does_not_repeat_a_whole_body() -> None:
    name = "k" * 1_000_000
    with pytest.raises(RequestError, match="at line 1 column") as caught:
        _parse_object(f'{{"{name}": 1, "{name}": 2}}'.encode())
    assert len(caught.value.message) < 400


def test_what_is_nested_too_deeply_says_so() -> None:
    for depth in (1000, 1_000_000):
        with pytest.raises(RequestError, match="nested deeper than 200 levels at line 1"):
            _parse_object(b'{"a": ' + b"[" * depth + b"]" * depth + b"}")
    assert _parse_object(b'{"a": ' + b"[" * 190 + b"]" * 190 + b"}")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"user": "\ud800"}, "user"),
        ({"metadata": {"k": "a\udfff"}}, "metadata.k"),
        ({"metadata": {"\ud800": "a"}}, "metadata"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages[0].content"),
        ({"tools": [{"function": {"description": "\ud800"}}]}, "tools[0].function.description"),
    ],
)
def test_half_a_surrogate_pair_is_named_by_its_field(body: dict[str, Any], param: str) -> None:
    answer = call(
        create_app(FakeEngine(), ApiOptions()),
        "POST",
        "/v1/chat/completions",
        content=json.dumps(chat() | body).encode(),
        headers={"content-type": "application/json"},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert "surrogate" in error["message"]


def test_numbers_of_thousands_of_digits_cost_nothing() -> None:
    raw = b'{"tokens": [' + (b"9" * 4000 + b",") * 1000 + b"1]}"
    start = time.process_time()
    assert parsed(raw) == "invalid_json"
    assert time.process_time() - start < 0.1


@given(st.integers(min_value=0, max_value=40))
def test_every_number_of_more_digits_than_a_hundred_is_found(shift: int) -> None:
    filler = b'{"a": "' + b"A" * 300_000 + b" " * shift
    assert _has_long_digits(filler + b'", "b": ' + b"1" * 101 + b"}")
    assert not _has_long_digits(filler + b'", "b": ' + b"1" * 80 + b"}")


TEXTS = st.text('data:"\\\u20ac\n0', max_size=30) | st.just("data:0123456789") | st.just(URL)
VALUES = st.recursive(
    TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
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
