"""data: URLs as clients write them, and everything else refused."""

from __future__ import annotations

import base64
import contextlib
import socket
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import ImageError
from server.images.data_url import _unquote, read_source
from server.images.options import ImageLimits, check_count

LIMITS = ImageLimits()
PARAM = "messages[0].content[1].image_url.url"
# Encodes to both letters that differ in the URL-safe alphabet, and needs padding.
DATA = b"\xfb\xff\xfe\x00picture"
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"data:image/jpg;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:text/html;charset=utf-8;base64,{TEXT}",
        f"DATA:image/png;BASE64,{TEXT}",
        f" data:image/png;base64,{TEXT}\n",
        f"data:image/png;base64,{TEXT.rstrip('=')}",
        f"data:image/png;base64,{TEXT}==",
        "data:image/png;base64," + "\r\n".join(TEXT[i : i + 5] for i in range(0, len(TEXT), 5)),
        f"data:image/png;base64, {TEXT}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(DATA).decode()}",
        f"data:image/png;base64,{quote(TEXT, safe='')}",
        f"data:image/png,{quote(DATA)}",
    ],
)
def test_every_way_of_writing_a_data_url_is_understood(url: str) -> None:
    assert "=" in TEXT
    assert "+" in TEXT
    assert "/" in TEXT
    assert read_source(url, LIMITS, PARAM) == DATA


@given(st.binary(min_size=1, max_size=200), st.booleans(), st.booleans(), st.booleans())
def test_round_trip(data: bytes, urlsafe: bool, padded: bool, quoted: bool) -> None:
    text = (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    text = quote(text, safe="") if quoted else text
    assert read_source(f"data:image/webp;base64,{text}", LIMITS, None) == data
    assert read_source(f"data:,{quote(data, safe='')}", LIMITS, None) == data


@given(st.text(st.characters(max_codepoint=127, min_codepoint=32)))
def test_unquoting_does_what_the_standard_library_does(text: str) -> None:
    # Escapes that are none are kept by both, though with another mark; none of them is base64.
    text = quote(text)
    assert _unquote(text).encode("latin-1") == unquote_to_bytes(text)


@given(st.text("Ab0+/=-_ %\u00e9", max_size=12))
def test_what_the_standard_library_takes_is_read_as_it_reads_it(text: str) -> None:
    with contextlib.suppress(ValueError):
        expected = base64.b64decode(text, validate=True)
        if expected:
            assert read_source(f"data:;base64,{text}", LIMITS, None) == expected


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (TEXT, "write data:image/png;base64, before it"),
        ("/etc/passwd", "data:image/png;base64,"),
        ("", "empty"),
        ("   ", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:,", "empty"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,A", "not valid"),
        ("data:image/png;base64,AAAA*AAA", "not valid"),
        ("data:image/png;base64,AA=AAAAA", "not valid"),
        ("data:image/png;base64,%FF%FE", "not valid"),
        ("data:image/png;base64,%zz%zz", "not valid"),
        ("data:image/png;base64,äöü", "outside ASCII"),
        ("data:image/png;base64,\ud800AAA", "outside ASCII"),
        ("data:image/png,\x89PNG", "outside ASCII"),
        ("http://169.254.169.254/latest/meta-data", "not fetched"),
        ("HTTPS://example.com/cat.png", "not fetched"),
        ("file:///etc/passwd", "not opened"),
        ("ftp://example.com/cat.png", "not supported"),
        ("C:\\cat.png", "not supported"),
    ],
)
def test_the_rest_is_refused_with_a_hint(
    url: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("opened something")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(ImageError) as raised:
        read_source(url, LIMITS, PARAM)
    assert raised.value.status == 400
    assert raised.value.param == PARAM
    assert hint in raised.value.message
    if not url.strip().lower().startswith("data:") and url.strip():
        assert raised.value.code == "unsupported_image_url"


def test_the_payload_is_never_repeated() -> None:
    secret = "S3CR3T" * 1000
    for url in (
        secret,
        f"data:{secret}",
        f"data:;base64,{secret}*",
        f"https://{secret}",
        secret + ":",
    ):
        with pytest.raises(ImageError) as raised:
            read_source(url, LIMITS, PARAM)
        assert "S3CR3T" not in raised.value.message.upper()


@pytest.mark.parametrize("template", ["data:image/png;base64,{}", "data:,{}"])
def test_the_limit_is_kept_to_the_byte(template: str) -> None:
    def url(count: int) -> str:
        data = b"a" * count
        return template.format(
            base64.b64encode(data).decode() if "base64" in template else "a" * count
        )

    limits = ImageLimits(max_bytes=1000)
    assert len(read_source(url(1000), limits, PARAM)) == 1000
    with pytest.raises(ImageError, match="limit is 1,000") as raised:
        read_source(url(1001), limits, PARAM)
    assert raised.value.code == "image_too_large"
    assert raised.value.param == PARAM


def test_too_large_is_found_before_base64_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> bytes:
        raise AssertionError("decoded")

    monkeypatch.setattr(base64, "b64decode", forbidden)
    with pytest.raises(ImageError, match="limit"):
        read_source("data:;base64," + "A" * 2000, ImageLimits(max_bytes=1000), PARAM)


def test_pictures_of_a_request_are_counted() -> None:
    check_count(16, LIMITS, "messages")
    with pytest.raises(ImageError, match="17 pictures; the limit is 16") as raised:
        check_count(17, LIMITS, "messages")
    assert raised.value.code == "too_many_images"
