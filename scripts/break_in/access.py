"""Without a key, and with another one's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx

from scripts.break_in.target import ALICE, BOB, FORBIDDEN, Attempts, Target, png
from scripts.hardening.shots import data_url

# What needs a key, with a body that is served with one.
_CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
_MESSAGES = {"model": "demo", **_CHAT}
GUARDED: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/v1/models", None),
    ("GET", "/models", None),
    ("GET", "/v1/models/demo", None),
    ("GET", "/v1/memory", None),
    ("GET", "/v1/files", None),
    ("GET", "/props", None),
    ("GET", "/version", None),
    ("GET", "/tokenizer_info", None),
    ("POST", "/v1/chat/completions", _CHAT),
    ("POST", "/v1/chat/completions/input_tokens", _CHAT),
    ("POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1}),
    ("POST", "/v1/embeddings", {"input": "Hi"}),
    ("POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 1}),
    ("POST", "/v1/messages", _MESSAGES),
    (
        "POST",
        "/v1/messages/count_tokens",
        {k: v for k, v in _MESSAGES.items() if k != "max_tokens"},
    ),
    ("POST", "/tokenize", {"content": "Hi"}),
    ("POST", "/detokenize", {"tokens": [1]}),
    ("POST", "/apply-template", _CHAT),
    ("POST", "/v1/images/inspect", {"url": data_url(png((5, 5)))}),
)


def _wrong_keys() -> Iterator[str]:
    """Lines of a head."""
    near = (
        *("", " ", ALICE[:-1], ALICE + "x", ALICE.upper(), ALICE[::-1], ALICE + "\0", "*", "null"),
        *("llava-", "none", "alice", "bob", "undefined", "a" * 9000, f"{ALICE},{BOB}", "\xff"),
        *(f'"{ALICE}"', f"'{ALICE}'", f"{ALICE} {BOB}", f"{ALICE};", "' OR 1=1", "${key}", "../"),
    )
    for key in near:
        yield f"authorization: Bearer {key}"
        yield f"authorization: Basic {key}"
        yield f"authorization: {key}"
        yield f"x-api-key: {key}"
    for name in ("cookie", "x-auth-token", "api-key", "x-goog-api-key", "proxy-authorization"):
        yield f"{name}: Bearer {ALICE}"
        yield f"{name}: api_key={ALICE}"
    for name in ("x-forwarded-for", "x-real-ip", "forwarded", "x-original-url", "x-rewrite-url"):
        yield f"{name}: 127.0.0.1"
        yield f"{name}: /health"
    yield f"authorization: Bearer\t{ALICE}"
    yield f"authorization: Bearer{ALICE}"
    yield f"authorization: Token {ALICE}"
    yield f"authorization : Bearer {ALICE}"
    yield f"x: y\r\n authorization: Bearer {ALICE}"
    yield f"authorization:\r\n Bearer {ALICE}x"
    yield "x-http-method-override: OPTIONS"


def _spellings(path: str) -> Iterator[str]:
    """The same path, or an open one with it behind, as a router or a check might misread it."""
    yield path
    for form in (
        *("/{}", "//{}", "/./{}", "{}/", "{}//", "{}/.", "{};x", "{}?/health", "{}#/health"),
        *("/health/..{}", "/docs/..{}", "/docs/%2e%2e{}", "/docs/..%2f{}", "/metrics/..{}"),
        *("/health;{}", "/docs{}", "/docs/{}", "/health%00{}", "{}%00/health", "{}%20", "{}%0a"),
        *("/openapi.json/..{}", "http://x/health{}", "/V1/../{}", "{}.json", "{}%3f/health"),
    ):
        yield form.format(path)
    yield path.replace("/", "/%2f", 1)
    yield path.replace("v", "%76", 1)
    yield path.replace("/v1", "/v1/v1", 1)
    yield path.replace("/v1", "", 1) or "/"
    yield path.upper()
    yield path.replace("/", "\\")


def _is_open(answer: bytes, status: int) -> bool:
    """Whether the answer is a refusal, or what everybody may read."""
    if status >= 400:
        return True
    return b'"status":"ok"' in answer or b"swagger" in answer or b"# HELP" in answer


def keys(server: Target, attempts: Attempts) -> None:
    """Requests without a valid key. An answer below 400 that is not open to all is a success."""
    with server.client(ALICE) as client:
        for method, path, body in GUARDED:
            answer = client.request(method, path, json=body)
            attempts.permitted(answer.status_code == 200, (path, answer.text))
    for (method, path, body), header in itertools.product(GUARDED, _wrong_keys()):
        if attempts.due:
            status, found = server.exchange(f"{method} {path} HTTP/1.1", [header], _json(body))
            attempts.note(not _is_open(found, status), (method, path, header, found[:300]))
    for method, path, body in GUARDED:
        for spelling, version in itertools.product(_spellings(path), ("1.1", "1.0")):
            if attempts.due:
                line = f"{method} {spelling} HTTP/{version}"
                status, found = server.exchange(line, (), _json(body))
                attempts.note(not _is_open(found, status), (line, found[:300]))
    methods = ("OPTIONS", "HEAD", "PUT", "PATCH", "TRACE", "CONNECT", "get", "PROPFIND", "QUERY")
    for method, (_, path, _) in itertools.product(methods, GUARDED):
        if attempts.due:
            status, found = server.exchange(f"{method} {path} HTTP/1.1")
            attempts.note(status < 400, (method, path, found[:300]))


def _json(body: Any) -> bytes:
    return b"" if body is None else json.dumps(body).encode()


MARK = "what-alice-said-5d0e"


def others(server: Target, attempts: Attempts) -> None:
    """Bob asks for what is Alice's. An answer other than a refusal, her text in it, or that her
    things are gone afterwards, is a success.
    """
    with server.client(ALICE) as alice, server.client(BOB) as bob:
        file_id = _upload(alice, png(FORBIDDEN))
        first = _respond(alice, f"Remember {MARK}")
        response_id, item_id = first["id"], _items(alice, first["id"])[0]["id"]
        own = _respond(bob, "Hi")["id"]
        for method, path, body in _of_others(file_id, response_id, item_id, own):
            if attempts.due:
                answer = bob.request(method, path, json=body)
                served = answer.status_code < 400 and not path.startswith("/v1/files?")
                attempts.note(served or MARK in answer.text, (method, path, body, answer.text))
        for path in ("/v1/files", "/v1/memory", "/metrics", "/props", "/v1/models", "/health"):
            answer = bob.get(path)
            attempts.note(MARK in answer.text or file_id in answer.text, path)
        with server.client() as nobody:
            for path in (f"/v1/files/{file_id}/content", f"/v1/responses/{response_id}"):
                attempts.note(nobody.get(path).status_code < 400, path)
        attempts.permitted(alice.get(f"/v1/files/{file_id}/content").status_code == 200, file_id)
        items = alice.get(f"/v1/responses/{response_id}/input_items")
        attempts.permitted(MARK in items.text, items.text)


def _upload(client: httpx.Client, content: bytes) -> str:
    files = {"file": (f"{MARK}.png", content)}
    answer = client.post("/v1/files", data={"purpose": "vision"}, files=files)
    Attempts.permitted(answer.status_code == 200, answer.text)
    return str(answer.json()["id"])


def _respond(client: httpx.Client, text: str) -> Any:
    answer = client.post("/v1/responses", json={"input": text, "max_output_tokens": 16})
    Attempts.permitted(answer.status_code == 200, answer.text)
    return answer.json()


def _items(client: httpx.Client, response_id: str) -> Any:
    return client.get(f"/v1/responses/{response_id}/input_items").json()["data"]


def _of_others(
    file_id: str, response_id: str, item_id: str, own: str
) -> Iterator[tuple[str, str, Any]]:
    ids = [file_id, file_id.upper(), f" {file_id}", f"{file_id}%00", f"../files/{file_id}"]
    ids += [f"*/{file_id}", f"{file_id[:-1]}%{ord(file_id[-1]):02x}", f"alice/{file_id}"]
    for name in ids:
        yield "GET", f"/v1/files/{name}", None
        yield "GET", f"/v1/files/{name}/content", None
        yield "DELETE", f"/v1/files/{name}", None
        for url in (name, f"file://{name}", f"/v1/files/{name}/content", f"attachment:{name}"):
            part = {"type": "image_url", "image_url": {"url": url}}
            chat = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
            yield "POST", "/v1/chat/completions", chat
            yield "POST", "/v1/images/inspect", {"url": url}
        yield "POST", "/v1/images/inspect", {"file_id": name}
        for part in (
            {"type": "input_image", "file_id": name},
            {"type": "input_file", "file_id": name},
        ):
            content = {"input": [{"role": "user", "content": [part]}], "max_output_tokens": 16}
            yield "POST", "/v1/responses", content
        source = {"type": "file", "file_id": name}
        block = [{"type": "image", "source": source}]
        message = {"messages": [{"role": "user", "content": block}], "max_tokens": 1, "model": "m"}
        yield "POST", "/v1/messages", message
    names = [response_id, f" {response_id}", response_id.upper(), f"{own}/../{response_id}"]
    for name in (*names, f"{response_id}%00"):
        for end in ("", "/input_items", "?include[]=x", "?owner=alice", "/cancel", "/../" + name):
            for method in ("GET", "POST", "DELETE"):
                yield method, f"/v1/responses/{name}{end}", None
        yield "POST", "/v1/responses", {"input": "Repeat it", "previous_response_id": name}
        yield "POST", "/v1/responses/input_tokens", {"input": "x", "previous_response_id": name}
    for item in (item_id, f" {item_id}", item_id.upper(), response_id):
        reference = {"type": "item_reference", "id": item}
        yield "POST", "/v1/responses", {"input": [reference], "max_output_tokens": 16}
        given = {"input": [reference], "previous_response_id": own, "max_output_tokens": 16}
        yield "POST", "/v1/responses", given
    for query in ("?owner=alice", "?user=alice", "?key=alice", "?limit=100", "?after=" + file_id):
        yield "GET", f"/v1/files{query}", None
