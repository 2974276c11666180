"""The guarded fetcher against a hostile web. Nothing but loopback is ever connected to."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in_web import ALSO_PUBLIC, PUBLIC, Web, page, redirect, serving

from server.errors import ConfigError, ImageError
from server.images.fetch import MAX_REDIRECTS, Fetcher
from server.images.options import ImageLimits
from server.images.url_policy import FetchOptions, UrlPolicy

URL = "http://pictures.test/a.png"
BODY = b"a picture's bytes" * 100
LIMITS = ImageLimits(max_bytes=100_000)


async def fetch_from(web: Web, url: str, **options: Any) -> bytes:
    async with serving(web):
        choices = FetchOptions(enabled=True, **options)
        fetcher = Fetcher(choices, LIMITS, resolve=web.resolve, network=web)
        return await fetcher.fetch(url, "url")


def fetch(web: Web, url: str = URL, **options: Any) -> bytes:
    return asyncio.run(fetch_from(web, url, **options))


def refusal(web: Web, url: str = URL, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(web, url, **options)
    assert caught.value.param == "url"
    for secret in ("secret", "127.0.0.1", "169.254", "10.0.0.1", PUBLIC):
        assert secret not in caught.value.message
    return caught.value


def a_web(**pages: Any) -> Web:
    web = Web()
    web.pages = {"/a.png": page(BODY), **{f"/{name}": answer for name, answer in pages.items()}}
    return web


def test_a_picture_arrives_and_the_request_carries_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    web = a_web()
    web.pages["/a.png?x=1"] = page(BODY, set_cookie="a=b")
    assert fetch(web, " http://PICTURES.test/a.png?x=1#part ".strip()) == BODY
    assert web.dialled == [(PUBLIC, 80)]
    (request,) = web.requests
    first, *lines = request.strip().split("\r\n")
    assert first == "GET /a.png?x=1 HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers.pop("User-Agent").startswith("llava-server/")
    assert headers == {
        "Host": "pictures.test",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def test_https_verifies_the_name_and_connects_to_the_address() -> None:
    web = a_web()
    assert fetch(web, "https://pictures.test/a.png") == BODY
    assert web.dialled == [(PUBLIC, 443)]
    assert web.server_names == ["pictures.test"]
    assert web.contexts[0].verify_mode is ssl.CERT_REQUIRED
    assert web.contexts[0].check_hostname


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
def test_redirects_are_followed_and_each_hop_is_looked_up(status: str) -> None:
    web = a_web(b=redirect("https://other.test/c", status), c=redirect("/a.png", status))
    web.names["other.test"] = [[ALSO_PUBLIC]]
    assert fetch(web, "http://pictures.test/b") == BODY
    assert web.dialled == [(PUBLIC, 80), (ALSO_PUBLIC, 443), (ALSO_PUBLIC, 443)]
    assert web.looked_up == ["pictures.test", "other.test", "other.test"]


def test_a_loop_of_redirects_ends() -> None:
    web = a_web(loop=redirect("/loop", "301 Moved"))
    assert refusal(web, "http://pictures.test/loop").code == "image_fetch_failed"
    assert len(web.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://inside.test/",
        "//inside.test/",
    ],
)
def test_a_redirect_inwards_is_refused_without_a_connection(target: str) -> None:
    web = a_web(b=redirect(target))
    web.names |= {"169.254.169.254": [["169.254.169.254"]], "inside.test": [["10.0.0.1"]]}
    web.names |= {"127.0.0.1": [["127.0.0.1"]], "::1": [["::1"]]}
    assert refusal(web, "http://pictures.test/b").code == "image_address_not_allowed"
    assert web.dialled == [(PUBLIC, 80)]
    assert len(web.requests) == 1


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://pictures.test/", "data:image/png;base64,AAAA", "gopher://x:70/"],
)
def test_a_redirect_to_another_scheme_is_refused(target: str) -> None:
    web = a_web(b=redirect(target))
    assert refusal(web, "http://pictures.test/b").code == "image_url_not_allowed"
    assert web.dialled == [(PUBLIC, 80)]


def test_rebinding_the_connection_goes_to_the_address_that_was_checked() -> None:
    web = a_web()
    web.names["pictures.test"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetch(web) == BODY
    assert web.dialled == [(PUBLIC, 80)]
    assert web.looked_up == ["pictures.test"], "a second look-up could have another answer"


def test_rebinding_between_two_hops_is_refused() -> None:
    web = a_web(b=redirect("/a.png"))
    web.names["pictures.test"] = [[PUBLIC], ["127.0.0.1"]]
    assert refusal(web, "http://pictures.test/b").code == "image_address_not_allowed"
    assert web.dialled == [(PUBLIC, 80)]


def test_one_private_address_among_public_ones_is_enough() -> None:
    web = a_web()
    web.names["pictures.test"] = [[PUBLIC, "10.0.0.1"]]
    assert refusal(web).code == "image_address_not_allowed"
    assert web.dialled == []


def test_a_dead_address_is_passed_over() -> None:
    web = a_web()
    web.names["pictures.test"] = [[ALSO_PUBLIC, PUBLIC]]
    web.dead = {ALSO_PUBLIC}
    assert fetch(web) == BODY
    assert web.dialled == [(ALSO_PUBLIC, 80), (PUBLIC, 80)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "0177.0.0.1", "0x7f.1",
        "0", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "[::]", "[::1]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
        "[2001:0:53aa:64c:0:0:80ff:fffe]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]",
        "127。0。0。1", "localhost",
    ],
)  # fmt: skip
def test_no_spelling_of_an_inner_address_is_connected_to(host: str) -> None:
    """With the system's own resolver, which asks nobody for these."""
    web = a_web()

    async def go() -> None:
        fetcher = Fetcher(FetchOptions(enabled=True), LIMITS, network=web)
        await fetcher.fetch(f"http://{host}/a.png", "url")

    with pytest.raises(ImageError) as caught:
        asyncio.run(go())
    assert caught.value.code in ("image_address_not_allowed", "unsupported_image_url")
    assert web.dialled == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://user:secret@pictures.test/a.png", "image_url_not_allowed"),
        ("http://user@pictures.test/a.png", "image_url_not_allowed"),
        ("http://pictures.test\\@127.0.0.1/a.png", "image_url_not_allowed"),
        ("http://pictures.test:22/a.png", "image_url_not_allowed"),
        ("http://pictures.test:0/a.png", "image_url_not_allowed"),
        ("http:///a.png", "image_url_not_allowed"),
        ("http:a.png", "image_url_not_allowed"),
        ("http://pictures.test/" + "a" * 9000, "image_url_not_allowed"),
        ("http://pictures.test/\r\nHost: inside", "unsupported_image_url"),
        ("http://[::1/", "unsupported_image_url"),
        ("http://pictures.test:port/", "unsupported_image_url"),
    ],
)
def test_urls_that_are_refused_as_they_stand(url: str, code: str) -> None:
    web = a_web()
    assert refusal(web, url).code == code
    assert (web.dialled, web.looked_up) == ([], [])


def test_a_redirect_with_credentials_or_without_a_target_is_refused() -> None:
    web = a_web(b=redirect("http://user:secret@pictures.test/a.png"), c=redirect("http://[::1/"))
    assert refusal(web, "http://pictures.test/b").code == "image_url_not_allowed"
    assert refusal(web, "http://pictures.test/c").code == "unsupported_image_url"
    assert len(web.requests) == 2


@settings(max_examples=150, derandomize=True)
@given(st.text(st.characters(), max_size=40), st.sampled_from(["http:", "http://", "http://a", ""]))
def test_any_text_is_a_url_that_is_permitted_or_an_image_error(text: str, start: str) -> None:
    policy = UrlPolicy(FetchOptions())
    base = policy.parse(URL, None)
    for url, relative_to in ((start + text, None), (text, base)):
        try:
            found = policy.parse(url, "url", relative_to)
        except ImageError:
            continue
        assert found.scheme in ("http", "https")
        assert found.port in (None, 80, 443)
        assert not found.userinfo


@pytest.mark.parametrize("host", ["nowhere.test", "a" * 64 + ".test", "x" * 300])
def test_a_host_that_does_not_exist(host: str) -> None:
    web = a_web()
    assert refusal(web, f"http://{host}/").code in ("image_fetch_failed", "unsupported_image_url")
    assert web.dialled == []


def test_hosts_that_the_operator_names_are_the_only_ones_and_may_be_private() -> None:
    web = a_web()
    web.names = {"inside.test": [["127.0.0.1"]], "pictures.test": [[PUBLIC]]}
    allow = ("Inside.test", "127.0.0.1:8123")
    assert fetch(web, "http://inside.test/a.png", allow=allow) == BODY
    assert refusal(web, URL, allow=allow).code == "image_url_not_allowed"
    for other in ("http://inside.test:8123/", "http://127.0.0.1/", "http://sub.inside.test/"):
        assert refusal(web, other, allow=allow).code == "image_url_not_allowed"
    assert web.dialled == [("127.0.0.1", 80)]


def test_an_allowed_port_is_used_and_redirects_stay_among_the_allowed() -> None:
    web = a_web(b=redirect("http://pictures.test/a.png"))
    web.names["127.0.0.1"] = [["127.0.0.1"]]
    allow = ("127.0.0.1:8123",)
    assert fetch(web, "http://127.0.0.1:8123/a.png", allow=allow) == BODY
    assert "Host: 127.0.0.1:8123\r\n" in web.requests[0]
    code = refusal(web, "http://127.0.0.1:8123/b", allow=allow).code
    assert code == "image_url_not_allowed"
    assert web.dialled == [("127.0.0.1", 8123)] * 2


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1"])
def test_not_even_an_allowed_host_may_be_link_local(address: str) -> None:
    web = a_web()
    web.names["pictures.test"] = [[address]]
    assert refusal(web, allow=("pictures.test",)).code == "image_address_not_allowed"
    assert web.dialled == []


@pytest.mark.parametrize("entry", ["", "http://a", "a/b", "a:port", "u@a", "*.a", "a:1:2"])
def test_a_wrong_entry_of_the_list_stops_the_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="--image-url-allow"):
        FetchOptions(allow=(entry,))


def test_a_slow_drip_ends_with_the_time() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        await web.send(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            await web.send(writer, b"x")
            await asyncio.sleep(0.02)

    web = a_web(drip=drip)
    assert refusal(web, "http://pictures.test/drip", timeout=0.2).code == "image_fetch_timeout"


def test_the_time_covers_redirects_and_the_resolver() -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.12)
        await web.send(writer, redirect("/slowly"))

    web = a_web(slowly=slowly)
    assert refusal(web, "http://pictures.test/slowly", timeout=0.3).code == "image_fetch_timeout"

    class Sleepy(Web):
        async def resolve(self, host: str, port: int) -> Any:
            await asyncio.sleep(5)

    assert refusal(Sleepy(), timeout=0.1).code == "image_fetch_timeout"


@pytest.mark.parametrize("head", ["transfer-encoding: chunked", "connection: close"])
def test_an_endless_body_is_cut_off(head: str) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        await web.send(writer, f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        block = b"x" * 0x1000
        chunk = b"1000\r\n" + block + b"\r\n" if "chunked" in head else block
        while True:
            await web.send(writer, chunk)

    web = a_web(endless=endless)
    assert refusal(web, "http://pictures.test/endless").code == "image_too_large"
    assert web.sent < 20_000_000, "what fits the sockets' buffers, not what takes ten seconds"


def test_endless_headers_are_cut_off() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        await web.send(writer, b"HTTP/1.1 200 OK\r\n")
        while True:
            await web.send(writer, b"x-more: " + b"y" * 1000 + b"\r\n")

    web = a_web(endless=endless)
    assert refusal(web, "http://pictures.test/endless").code == "image_fetch_failed"


def test_a_content_length_over_the_limit_is_refused_before_the_body() -> None:
    web = a_web(big=page(BODY, content_length="9" * 12), just=page(b"x" * 100_000))
    assert refusal(web, "http://pictures.test/big").code == "image_too_large"
    assert len(fetch(web, "http://pictures.test/just")) == LIMITS.max_bytes


def test_wrong_content_lengths() -> None:
    web = a_web(
        short=page(BODY, content_length=str(len(BODY) + 1)),
        long=page(BODY, content_length="5"),
        none=page(BODY, content_length="", connection="close"),
        odd=page(BODY, content_length="-5"),
        empty=page(b""),
    )
    assert refusal(web, "http://pictures.test/short").code == "image_fetch_failed"
    assert fetch(web, "http://pictures.test/long") == BODY[:5]
    assert fetch(web, "http://pictures.test/none") == BODY
    assert refusal(web, "http://pictures.test/odd").code == "image_fetch_failed"
    assert refusal(web, "http://pictures.test/empty").code == "invalid_image"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_a_compressed_body_is_refused_unread(encoding: str) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    web = a_web(bomb=page(bomb, content_encoding=encoding))
    assert refusal(web, "http://pictures.test/bomb").code == "image_fetch_failed"


def test_compression_that_is_not_told_is_never_undone() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert fetch(a_web(bomb=page(bomb)), "http://pictures.test/bomb") == bomb


@pytest.mark.parametrize("status", ["404 Not Found", "500 secret", "206 Partial", "204 x", "300 x"])
def test_other_answers_are_refused_without_telling_them(status: str) -> None:
    web = a_web(b=page(b"secret" if status[0] != "2" else b"", status))
    error = refusal(web, "http://pictures.test/b")
    assert error.code == "image_fetch_failed"
    assert status[:3] not in error.message


def test_a_host_that_speaks_no_http_or_hangs_up() -> None:
    web = a_web(ssh=b"SSH-2.0-OpenSSH\r\n", none=b"")
    assert refusal(web, "http://pictures.test/ssh").code == "image_fetch_failed"
    assert refusal(web, "http://pictures.test/none").code == "image_fetch_failed"
