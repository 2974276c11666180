"""Who may enter: keys, their file, their limits, and what belongs to whom."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, call, chat, serving, wait_for
from fastapi import FastAPI

from server.api.app import Controls, create_app
from server.api.options import ApiOptions, CallerLimits
from server.errors import ConfigError
from server.settings.key_file import Key, entry_of, make_key, read_keys

CHAT = "/v1/chat/completions"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def app_with(engine: FakeEngine | None = None, **options: Any) -> FastAPI:
    return create_app(engine or FakeEngine(), ApiOptions(**options))


def controls(app: FastAPI) -> Controls:
    return app.state.controls  # type: ignore[no-any-return]


def file_of(path: Path, **keys: str) -> Path:
    path.write_text("\n".join(entry_of(name, key) for name, key in keys.items()))
    return path


def test_keys_open_everything_and_their_absence_what_probes_and_readers_need() -> None:
    app = app_with(api_keys=("first", "sécond"))

    def status(path: str, authorization: str | bytes | None) -> int:
        headers = {"authorization": authorization} if authorization is not None else {}
        return call(app, "GET", path, headers=headers).status_code

    for wrong in (None, "", "Bearer", "Bearer ", "Bearer firs", "Bearer first x", "Basic first"):
        for path in ("/v1/models", "/v1/memory", "/nothing", "/healthy", "/docs-not"):
            assert status(path, wrong) == 401, (path, wrong)
        for path in ("/health", "/health/ready", "/metrics", "/docs", "/openapi.json"):
            assert status(path, wrong) == 200, (path, wrong)
    for right in ("Bearer first", "bearer first", "Bearer sécond".encode()):
        assert status("/v1/models", right) == 200
    refused = call(app, "POST", CHAT, json=chat())
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.json()["error"]["type"] == "authentication_error"


def test_x_api_key_is_as_good() -> None:
    app = app_with(api_keys=("first",))
    assert call(app, "GET", "/v1/models", headers={"x-api-key": "first"}).status_code == 200
    assert call(app, "GET", "/v1/models", headers={"x-api-key": "other"}).status_code == 401
    for bearer in ("Bearer ", "Bearer none", "Bearer other", "Basic x"):
        both = {"authorization": bearer, "x-api-key": "first"}
        assert call(app, "GET", "/v1/models", headers=both).status_code == 200
    swapped = {"authorization": "Bearer first", "x-api-key": "none"}
    assert call(app, "GET", "/v1/models", headers=swapped).status_code == 200


def test_every_key_is_compared_in_constant_time_whichever_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = app_with(api_keys=("a", "b", "c"))
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        assert len(one) == len(other) == 32, "hashes, of one length whatever the key's is"
        compared.append(1)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in ("a", "c", "wrong", "x" * 10_000, ""):
        compared.clear()
        call(app, "GET", "/v1/models", headers=bearer(key))
        assert len(compared) == 3, key


def test_the_file_holds_names_and_hashes_and_no_key(tmp_path: Path) -> None:
    key = make_key()
    path = file_of(tmp_path / "keys.toml", alice=key)
    path.write_text(path.read_text() + 'rate-limit = "60/minute"\nmax-concurrency = 4\n')
    assert key not in path.read_text()
    assert len(key) > 40
    digest = hashlib.sha256(key.encode()).digest()
    assert read_keys(path) == (Key("alice", digest, "60/minute", 4),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sk-just-a-key", "is not valid TOML"),
        ("alice = 1", "alice"),
        ('[alice]\nkey = "secret"', "alice.hash: Field required"),
        (entry_of("alice", "k") + 'rate_limit = "1/minute"', "did you mean rate-limit?"),
        (entry_of("alice", "a", "b", "c"), "alice.hash: Value should have at most 2 items"),
        (entry_of("alice", "k") + entry_of("bob", "k"), "the same hash stands there twice"),
        ('[alice]\nhash = "sha256:12"', "alice.hash: String should match pattern"),
        ('["a b"]\nhash = "x"', "'a b' is no name"),
        (f'[a]\nhash = "sha256:{"0" * 64}"\nrate-limit = "9"', "a.rate-limit: Value error, must"),
        (f'[a]\nhash = "sha256:{"0" * 64}"\nlimit = 9', "a.limit: no such entry"),
    ],
)
def test_a_wrong_file_of_keys_is_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        app_with(api_key_file=path)
    assert words in caught.value.message
    assert "secret" not in caught.value.message
    with pytest.raises(ConfigError, match="No such file"):
        app_with(api_key_file=tmp_path / "none.toml")


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    path = file_of(tmp_path / "keys.toml")
    assert call(app_with(api_key_file=path), "GET", "/v1/models").status_code == 401


def test_reloading_exchanges_keys_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = file_of(tmp_path / "keys.toml", alice="old", bob="his")
    app = app_with(api_key_file=path, api_keys=("fixed",))

    def welcome(key: str) -> bool:
        return call(app, "GET", "/v1/models", headers=bearer(key)).status_code == 200

    assert [welcome(key) for key in ("old", "his", "new", "fixed")] == [True, True, False, True]
    file_of(path, alice="new")
    controls(app).keys.reload()
    assert [welcome(key) for key in ("old", "his", "new", "fixed")] == [False, False, True, True]
    path.write_text("[alice")
    with pytest.raises(ConfigError):
        controls(app).keys.reload()
    assert [welcome(key) for key in ("old", "his", "new", "fixed")] == [False, False, True, True]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


def test_a_name_may_have_an_old_and_a_new_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(entry_of("alice", "old", "new") + 'rate-limit = "60/minute"\n')
    app = app_with(api_key_file=path)
    for key, status in (("old", 200), ("new", 200), ("other", 401)):
        assert call(app, "GET", "/v1/models", headers=bearer(key)).status_code == status
    names = {(key.name, key.rate) for key in read_keys(path)}
    assert names == {("alice", "60/minute")}, "one caller, with one rate"


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_file_that_was_emptied_locks_nobody_out(text: str, tmp_path: Path) -> None:
    path = file_of(tmp_path / "keys.toml", alice="hers")
    app = app_with(api_key_file=path, api_keys=("fixed",))
    path.write_text(text)
    with pytest.raises(ConfigError, match="old keys stay valid"):
        controls(app).keys.reload()
    for key in ("hers", "fixed"):
        assert call(app, "GET", "/v1/models", headers=bearer(key)).status_code == 200


def test_a_revoked_key_ends_what_runs_with_it_and_nothing_else(tmp_path: Path) -> None:
    path = file_of(tmp_path / "keys.toml", alice="hers", bob="his")
    engine = FakeEngine(texts=("word ",) * 100, token_seconds=0.02)

    async def go() -> None:
        app = create_app(engine, ApiOptions(api_key_file=path))
        sent: dict[str, list[Any]] = {"hers": [], "his": []}

        async def ask(key: str, stream: bool) -> None:
            body = json.dumps(chat(stream=stream)).encode()
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> Any:
                if messages:
                    return messages.pop()
                return await asyncio.get_running_loop().create_future()

            async def send(message: Any) -> None:
                sent[key].append(message)

            scope = {
                "type": "http", "method": "POST", "path": CHAT, "raw_path": b"", "headers":
                [(b"authorization", f"Bearer {key}".encode())], "query_string": b"",
                "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "http_version": "1.1",
                "scheme": "http",
            }  # fmt: skip
            await app(scope, receive, send)

        tasks = [asyncio.ensure_future(ask("hers", True)), asyncio.ensure_future(ask("his", False))]
        await until(lambda: len(sent["hers"]) >= 5)
        whole = asyncio.ensure_future(ask("hers", False))
        await until(lambda: engine.running == 3)
        file_of(path, bob="his")
        app.state.controls.keys.reload()
        await asyncio.gather(*tasks, whole)
        assert engine.running == 0
        assert len(engine.aborted) == 2
        assert sent["his"][0]["status"] == 200
        assert sent["his"][-1] == {"type": "http.response.body", "body": sent["his"][-1]["body"]}
        refused = [m for m in sent["hers"] if m.get("status") == 401]
        assert len(refused) == 1, "the one that was not streamed, and had no answer yet"

    asyncio.run(go())


def test_the_key_s_name_reaches_the_log(tmp_path: Path) -> None:
    path = file_of(tmp_path / "keys.toml", alice="hers")
    app = app_with(api_key_file=path, api_keys=("fixed",))
    names: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        names.append(scope["state"].get("key_name"))

    for key in ("hers", "fixed", "wrong"):
        call(look, "GET", "/v1/models", headers=bearer(key))  # type: ignore[arg-type]
    assert names == ["alice", "api-key-1", None]


def test_uploads_belong_to_the_key_that_made_them() -> None:
    app = app_with(api_keys=("hers", "his"))

    def files(key: str, method: str = "GET", path: str = "", **request: Any) -> httpx.Response:
        return call(app, method, f"/v1/files{path}", headers=bearer(key), **request)

    form = {"files": {"file": ("a.png", b"content")}, "data": {"purpose": "vision"}}
    made = files("hers", "POST", **form).json()["id"]
    assert [file["id"] for file in files("hers").json()["data"]] == [made]
    assert files("his").json()["data"] == []
    for method, path in (("GET", f"/{made}"), ("GET", f"/{made}/content"), ("DELETE", f"/{made}")):
        assert files("his", method, path).status_code == 404
    part = {"type": "image_url", "image_url": {"url": made}}
    answer = call(app, "POST", CHAT, json=chat([part]), headers=bearer("his"))
    assert answer.json()["error"]["code"] == "file_not_found"
    assert files("hers", "DELETE", f"/{made}").status_code == 200


def test_stored_responses_belong_to_the_key_that_made_them() -> None:
    app = app_with(api_keys=("hers", "his"))

    def responses(key: str, method: str, path: str = "", **request: Any) -> httpx.Response:
        return call(app, method, f"/v1/responses{path}", headers=bearer(key), **request)

    made = responses("hers", "POST", json={"input": "Hello", "store": True}).json()["id"]
    assert responses("his", "GET", f"/{made}").status_code == 404
    assert responses("his", "DELETE", f"/{made}").status_code == 404
    follow_up = {"input": "And?", "previous_response_id": made}
    assert responses("his", "POST", json=follow_up).status_code in (400, 404)
    assert responses("hers", "POST", json=follow_up).status_code == 200
    assert responses("hers", "GET", f"/{made}").status_code == 200


def statuses(app: FastAPI, count: int, headers: dict[str, str] | None = None) -> list[int]:
    return [call(app, "GET", "/v1/models", headers=headers).status_code for _ in range(count)]


def test_each_key_has_its_rate(tmp_path: Path) -> None:
    path = file_of(tmp_path / "keys.toml", alice="hers", bob="his")
    path.write_text(path.read_text() + 'rate-limit = "4/hour"\n')
    app = app_with(api_key_file=path, caller=CallerLimits(rate="2/hour"))
    assert statuses(app, 3, bearer("hers")) == [200, 200, 429]
    assert statuses(app, 5, bearer("his")) == [200] * 4 + [429]
    refused = call(app, "GET", "/v1/models", headers=bearer("hers"))
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 3000 < int(refused.headers["retry-after"]) <= 3600
    assert call(app, "GET", "/health").status_code == 200
    assert statuses(app, 1, bearer("wrong")) == [401], "who has no key is not counted"


def test_without_keys_addresses_have_their_rate() -> None:
    app = app_with(caller=CallerLimits(rate="1/hour"))
    assert statuses(app, 2) == [200, 429]

    async def ask(client: str) -> int:
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
            return (await asking.get("/v1/models")).status_code

    asked = ("10.0.0.1", "10.0.0.2", "10.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    assert [asyncio.run(ask(client)) for client in asked] == [200, 200, 429, 200, 429, 200]


def test_each_key_has_so_many_requests_at_once() -> None:
    engine = FakeEngine(texts=("word ",) * 50, token_seconds=0.02)
    options: dict[str, Any] = {
        "api_keys": ("hers", "his"),
        "caller": CallerLimits(concurrency=1),
    }
    with serving(engine, **options) as url, httpx.Client(base_url=url, timeout=10) as client:
        body = chat(stream=True)
        with client.stream("POST", CHAT, json=body, headers=bearer("hers")) as stream:
            lines = stream.iter_lines()  # kept, or the connection would be closed
            next(lines)
            refused = client.post(CHAT, json=chat(), headers=bearer("hers"))
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
            assert client.get("/v1/models", headers=bearer("his")).status_code == 200
        wait_for(lambda: engine.running == 0)
        wait_for(lambda: client.get("/v1/models", headers=bearer("hers")).status_code == 200)


def test_other_sites_pages_may_ask_only_if_they_are_named() -> None:
    asking = {"origin": "https://a.test", "access-control-request-method": "POST"}
    closed = call(app_with(), "OPTIONS", CHAT, headers=asking)
    assert "access-control-allow-origin" not in closed.headers
    app = app_with(api_keys=("k",), cors_origins=("https://a.test",))
    preflight = call(app, "OPTIONS", CHAT, headers=asking)
    assert preflight.status_code == 200, "browsers ask without the key"
    assert preflight.headers["access-control-allow-origin"] == "https://a.test"
    answer = call(app, "GET", "/v1/models", headers={"origin": "https://a.test", **bearer("k")})
    assert answer.headers["access-control-allow-origin"] == "https://a.test"
    other = {**asking, "origin": "https://b.test"}
    refused = call(app, "OPTIONS", CHAT, headers=other)
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("origin", ["app://obsidian.md", "tauri://localhost", "null"])
def test_apps_may_be_named_and_any_page_allowed(origin: str) -> None:
    asking = {"origin": origin, "access-control-request-method": "POST"}
    for allowed, expected in (((origin,), origin), (("*",), "*")):
        preflight = call(app_with(cors_origins=allowed), "OPTIONS", CHAT, headers=asking)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == expected


def test_answers_say_what_is_left_of_a_rate() -> None:
    app = app_with(caller=CallerLimits(rate="2/minute"))
    answers = [call(app, "GET", "/v1/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    for answer, left in zip(answers, (1, 0, 0), strict=True):
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
        assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-requests" not in call(app_with(), "GET", "/v1/models").headers


@pytest.mark.parametrize(
    ("path", "expect"),
    [
        ("/v1/models", lambda headers: "default-src 'none'" in headers["content-security-policy"]),
        ("/docs", lambda headers: "script-src 'self'" in headers["content-security-policy"]),
        ("/nothing", lambda headers: headers["x-frame-options"] == "DENY"),
        ("/v1/models", lambda headers: headers["cache-control"] == "no-store"),
        ("/health", lambda headers: "strict-transport-security" not in headers),
    ],
)
def test_answers_bear_what_browsers_must_know(
    path: str, expect: Callable[[httpx.Headers], bool]
) -> None:
    headers = call(app_with(), "GET", path).headers
    assert expect(headers)
    assert headers["x-content-type-options"] == "nosniff"


def test_metrics_may_be_elsewhere_and_the_page_away() -> None:
    app = app_with(serve_metrics=False, docs=False)
    for path in ("/metrics", "/docs", "/openapi.json"):
        assert call(app, "GET", path).status_code == 404
