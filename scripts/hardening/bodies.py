"""Malformed request bodies: JSON trees around the schemas, and then bytes that are no JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from scripts.hardening.shots import CHAT, COUNT, FILES, INSPECT, Shot, data_url
from scripts.hardening.whole import whole_pictures

ROUND = 100  # bodies of one seed; in longer runs hypothesis varies what it had
Strategy = st.SearchStrategy[Any]

_FILE = whole_pictures()["png-bits"]
_PNG = data_url(_FILE)
_HUGE = (2**31, 2**63, -(2**63) - 1, 10**400, -(10**30))
_NUMBERS = st.integers() | st.floats() | st.sampled_from(_HUGE)
_TEXT = st.text(max_size=30) | st.text(st.characters(codec=None), max_size=8)
_LEAVES = st.none() | st.booleans() | _NUMBERS | _TEXT
_FIELDS = (
    *("messages", "role", "content", "type", "text", "image_url", "url", "detail", "file"),
    *("file_id", "model", "stream", "max_tokens", "stop", "tools", "response_format", "@string"),
)
_TREES: Strategy = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_FIELDS) | _TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)
_URLS = st.sampled_from(
    (
        *(_PNG, _PNG[:-9], _PNG.replace("base64", ""), _PNG + "!!", "data:,", "data:;base64,%"),
        *("data:image/png;base64,", "data:text/html,%3Cb%3E", "http://127.0.0.1:9/a.png"),
        *("http://127.0.0.1:8/", "http://[::1/", "http://a b/", "https://", "http://0/", "//x"),
        *("file:///etc/passwd", "file://../x", "ftp://x/", "javascript:1", "file-" + "x" * 24),
        *("http://" + "a" * 9000, "file-../../etc", "\0", "", " ", "http://user:p@127.0.0.1:9/"),
    )
)


def _or_odd(usual: Strategy) -> Strategy:
    """Mostly what is expected there, now and then anything."""
    return st.integers(0, 11).flatmap(lambda draw: _TREES if draw == 7 else usual)


def _object(required: dict[str, Strategy], optional: dict[str, Strategy]) -> Strategy:
    return st.fixed_dictionaries(
        {name: _or_odd(value) for name, value in required.items()},
        optional={name: _or_odd(value) for name, value in optional.items()},
    )


def _messages() -> Strategy:
    detail = st.sampled_from(("auto", "low", "high", "ultra", None))
    image = _object({"url": _URLS | _TEXT}, {"detail": detail})
    kinds = st.sampled_from(("text", "image_url", "file", "input_audio", "video_url", "none"))
    part = _object(
        {"type": kinds},
        {"text": _TEXT, "image_url": image | _URLS, "file": _object({"file_id": _URLS}, {})},
    )
    picture = _object({"type": st.just("image_url"), "image_url": image | _URLS}, {})
    content = _TEXT | st.lists(_or_odd(part | picture), max_size=4)
    roles = st.sampled_from(("user", "user", "system", "developer", "assistant", "tool", "x"))
    message = _object({"role": roles, "content": content}, {"name": _TEXT, "tool_calls": _TREES})
    return st.lists(_or_odd(message), min_size=1, max_size=4)


def _chats() -> Strategy:
    """Chats with many odd fields, and as often with one, so that what comes after it is reached."""
    names = ("temperature", "top_p", "min_p", "top_k", "presence_penalty", "frequency_penalty")
    numbers = {name: st.floats(-3, 3) | _NUMBERS for name in (*names, "seed", "n", "logprobs")}
    flags = {name: st.booleans() for name in ("stream", "logprobs", "parallel_tool_calls")}
    others = dict.fromkeys(("tools", "tool_choice", "response_format", "functions"), _TREES)
    optional = {
        **numbers,
        **flags,
        **others,
        "stop": _TEXT | st.lists(_TEXT, max_size=20),
        "stream_options": _object({}, {"include_usage": st.booleans()}),
        "model": _TEXT,
        "metadata": st.dictionaries(_TEXT, _TEXT, max_size=3),
        "max_completion_tokens": st.integers(0, 3) | _NUMBERS,
    }
    required = {"messages": _messages(), "max_tokens": st.integers(1, 3)}
    near = st.sampled_from(sorted(optional)).flatmap(
        lambda name: _object(required | {name: optional[name]}, {})
    )
    return st.one_of(_object(required, {}), near, near, _object(required, optional))


def _deep(depth: int, opening: str, middle: str, closing: str) -> bytes:
    return (opening * depth + middle + closing * depth).encode()


# Bodies that no tree gives.
_RAW = st.one_of(
    st.binary(max_size=200),
    st.builds(
        _deep,
        st.sampled_from((10, 500, 3000, 100_000)),
        st.sampled_from(("[", '{"messages":', '{"messages":[{"content":')),
        st.sampled_from(("", "1", '"x"')),
        st.sampled_from(("", "]", "}", "}]}")),
    ),
    st.integers(1, 20_000).map(lambda n: b'{"max_tokens":' + b"9" * n + b',"messages":[]}'),
    st.integers(1, 400).map(lambda n: b'{"temperature":1e' + b"9" * n + b"}"),
    st.sampled_from((b"", b"null", b"[]", b"{}", b'"', b"NaN", b"\xff\xfe{}", b"\xef\xbb\xbf{}")),
    st.just(b'{"messages":[],"messages":[]}'),
)


@st.composite
def _spoilt(draw: st.DrawFn, chats: Strategy) -> bytes:
    """A chat as bytes, half of them damaged once more."""
    text = json.dumps(draw(chats), ensure_ascii=draw(st.booleans()))
    content = text.encode("utf-8", "surrogatepass")
    way = draw(st.sampled_from(("", "", "", "cut", "byte", "utf-16", "latin-1", "twice", "tail")))
    if way == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif way == "byte":
        at = draw(st.integers(0, len(content)))
        content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
    elif way in ("utf-16", "latin-1"):
        content = text.encode(way, "replace")
    elif way == "twice":
        content += content
    elif way == "tail":
        content += draw(st.binary(max_size=9))
    return content


_TYPES = st.sampled_from(
    (
        *("application/json",) * 8,
        *("", "text/plain", "application/json; charset=utf-16", "multipart/form-data"),
        *("multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "*/*;;=", "\xff"),
    )
)


def _form(parts: list[tuple[str, bytes]], closed: bool) -> bytes:
    shown = (
        f'--x\r\ncontent-disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        + value
        + b"\r\n"
        for name, value in parts
    )
    return b"".join(shown) + (b"--x--\r\n" if closed else b"")


def _forms() -> Strategy:
    names = st.sampled_from(("file", "purpose", "expires_after[seconds]", 'a"b', "\r\n", ""))
    values = st.binary(max_size=60) | st.sampled_from((b"vision", _FILE))
    return st.builds(_form, st.lists(st.tuples(names, values), max_size=4), st.booleans())


def _requests() -> Strategy:
    bodies = _spoilt(_chats())
    inspected = _object({"url": _URLS}, {"detail": _TREES}).map(json.dumps)
    return st.one_of(
        st.tuples(st.just("chat"), st.just(CHAT), bodies, _TYPES),
        st.tuples(st.just("chat"), st.just(CHAT), bodies, st.just("application/json")),
        st.tuples(st.just("chat"), st.just(CHAT), bodies, st.just("application/json")),
        st.tuples(st.just("raw"), st.sampled_from((CHAT, COUNT, INSPECT, FILES)), _RAW, _TYPES),
        st.tuples(st.just("count"), st.just(COUNT), bodies, _TYPES),
        st.tuples(st.just("inspect"), st.just(INSPECT), inspected.map(str.encode), _TYPES),
        st.tuples(
            *(st.just("form"), st.sampled_from((INSPECT, FILES)), _forms()),
            st.sampled_from(("multipart/form-data; boundary=x", "multipart/form-data")),
        ),
    )


def malformed_bodies(count: int, number: int) -> Iterator[Shot]:
    """``count`` different requests; the same ones for the same ``number`` and hypothesis."""
    seen: set[tuple[str, str, bytes, str]] = set()
    for turn in range(2 + 4 * count // ROUND):
        for request in _round(f"{number}/{turn}"):
            if len(seen) == count:
                return
            if request not in seen:
                seen.add(request)
                group, path, content, kind = request
                headers = {"content-type": kind} if kind else {}
                yield Shot(f"body/{number}/{len(seen)}", group, path, content, headers)


def _round(number: str) -> list[tuple[str, str, bytes, str]]:
    found: list[tuple[str, str, bytes, str]] = []

    @seed(number)
    @settings(
        max_examples=ROUND,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_requests())
    def collect(request: tuple[str, str, bytes, str]) -> None:
        found.append(request)

    collect()
    return found
