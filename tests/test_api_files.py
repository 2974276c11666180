"""Uploads: through OpenAI's own client, and by hand where that would not do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fakes import FakeEngine, call, data_url, image_part, serving, text_part
from image_files import corners, encode

from server.api.app import create_app
from server.api.generate.upload_store import FileStore
from server.api.options import ApiOptions
from server.errors import NotFoundError, PayloadTooLarge
from server.images.options import ImageLimits, ImageOptions

PNG = encode(corners(), "PNG")
SMALL = ImageOptions(limits=ImageLimits(max_bytes=2000))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[openai.OpenAI]:
    with (
        serving(engine, images=SMALL, files_max_bytes=5000, files_expire=7200) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_a_file_s_whole_life(client: openai.OpenAI) -> None:
    made = client.files.create(file=("my picture.png", PNG), purpose="vision")
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename, made.purpose, made.status) == (
        *("file", len(PNG), "my picture.png", "vision", "processed"),
    )
    assert made.created_at > 1_700_000_000
    assert made.expires_at == made.created_at + 7200
    assert client.files.retrieve(made.id) == made
    assert client.files.list().data == [made]
    content = client.files.content(made.id)
    assert content.read() == PNG
    assert content.response.headers["content-disposition"] == (
        "attachment; filename*=UTF-8''my%20picture.png"
    )
    gone = client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for again in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            again(made.id)
        assert caught.value.code == "file_not_found"
    assert client.files.list().data == []


def test_expires_after_is_honoured_up_to_the_server_s_own(client: openai.OpenAI) -> None:
    after: Any = {"anchor": "created_at", "seconds": 3600}
    made = client.files.create(file=("a", PNG), purpose="user_data", expires_after=after)
    assert made.expires_at == made.created_at + 3600
    after["seconds"] = 7201
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a", PNG), purpose="vision", expires_after=after)
    assert caught.value.param == "expires_after[seconds]"


def test_listing_pages(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}", b"x"), purpose="vision").id for n in range(5)]
    other = client.files.create(file=("o", b"x"), purpose="user_data").id
    assert [file.id for file in client.files.list()] == [other, *reversed(made)]
    assert [file.id for file in client.files.list(order="asc", limit=2)] == [*made, other]
    assert [file.id for file in client.files.list(purpose="user_data")] == [other]
    page = client.files.list(order="asc", limit=2, after=made[1])
    assert [file.id for file in page.data] == made[2:4]
    assert page.has_more
    assert not client.files.list(limit=6).has_more


@pytest.mark.parametrize("way", ["part", "object", "string"])
def test_an_id_stands_for_the_picture(client: openai.OpenAI, engine: FakeEngine, way: str) -> None:
    file_id = client.files.create(file=("a.png", PNG), purpose="vision").id
    part: Any = {
        "part": {"type": "file", "file": {"file_id": file_id}},
        "object": {"type": "image_url", "image_url": {"url": file_id}},
        "string": {"type": "image_url", "image_url": file_id},
    }[way]
    content: Any = [text_part("Before"), part, text_part("after")]
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    pictures = [part for part in engine.parts[0] if not isinstance(part, str)]
    assert [(p.source_width, p.source_height) for p in pictures] == [corners().size]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "file", "file": {"file_id": "file-0"}}, "file.file_id"),
        ({"type": "image_url", "image_url": {"url": "file-0"}}, "image_url.url"),
    ],
)
def test_an_unknown_id_in_a_chat_names_the_field(
    client: openai.OpenAI, part: Any, field: str
) -> None:
    content: Any = [image_part(), part]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    assert (caught.value.code, caught.value.param) == (
        *("file_not_found", f"messages[0].content[1].{field}"),
    )


def test_an_upload_that_is_no_picture_is_refused_when_used(client: openai.OpenAI) -> None:
    file_id = client.files.create(file=("a.png", b"no picture"), purpose="vision").id
    content: Any = [{"type": "file", "file": {"file_id": file_id}}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    assert caught.value.param == "messages[0].content[0].file.file_id"


@pytest.mark.parametrize("value", ["http://127.0.0.1/", data_url(), "", "x", 7])
def test_a_file_part_takes_nothing_but_an_id(value: Any) -> None:
    part = {"type": "file", "file": {"file_id": value}}
    response = _post(FakeEngine(), part)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages[0].content[0].file.file_id"
    assert error["code"] == "invalid_value"


def _post(engine: FakeEngine, part: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": [part]}]}
    return call(create_app(engine, ApiOptions()), "POST", "/v1/chat/completions", json=body)


def test_what_is_too_large_or_too_much(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a", b"x" * 2001), purpose="vision")
    assert (caught.value.status_code, caught.value.param) == (413, "file")
    made = [client.files.create(file=("a", b"x" * 2000), purpose="vision") for _ in range(2)]
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a", b"x" * 1001), purpose="vision")
    assert (caught.value.status_code, caught.value.code) == (413, "files_full")
    assert client.files.retrieve(made[0].id) == made[0], "nobody's file is thrown out"
    client.files.delete(made[0].id)
    client.files.create(file=("a", b"x" * 1001), purpose="vision")


def upload(
    data: dict[str, str] | None = None, files: Any = None, **request: Any
) -> tuple[int, str, str]:
    """Status, code and param of an upload's refusal."""
    app = create_app(FakeEngine(), ApiOptions(images=SMALL))
    response = call(app, "POST", "/v1/files", data=data, files=files, **request)
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


FILE = {"file": ("a.png", PNG)}
VISION = {"purpose": "vision"}


@pytest.mark.parametrize(
    ("data", "files", "code", "param"),
    [
        ({}, FILE, "missing_required_parameter", "purpose"),
        ({"purpose": "fine-tune"}, FILE, "invalid_value", "purpose"),
        (VISION, {"other": ("a", b"x")}, "missing_required_parameter", "file"),
        (VISION, {"file": ("a", b"")}, "invalid_value", "file"),
        (VISION, [("file", ("a", b"x")), ("file", ("b", b"x"))], "invalid_form", None),
        ({**VISION, "a": "x" * 5000}, FILE, "invalid_form", None),
        ({**VISION, **{str(n): "x" for n in range(20)}}, FILE, "invalid_form", None),
        (
            {**VISION, "expires_after[seconds]": "60"},
            *(FILE, "missing_required_parameter", "expires_after"),
        ),
        (
            {**VISION, "expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"},
            *(FILE, "invalid_value", "expires_after[seconds]"),
        ),
    ],
)
def test_a_wrong_form(data: dict[str, str], files: Any, code: str, param: str) -> None:
    assert upload(data, files) == (400, code, param)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n"),
        ("multipart/form-data; boundary=x; charset=\xff", b"--x\r\n\r\n"),
    ],
)
def test_a_body_that_is_no_form(kind: str, body: bytes) -> None:
    headers = {"content-type": kind.encode("latin-1")}
    status, code, _ = upload(content=body, headers=headers)
    assert (status, code) in [(400, "invalid_form"), (400, "missing_required_parameter")]


def test_a_body_without_end_is_cut_off() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while True:
            sent += 10_000
            yield b"y" * 10_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert upload(content=endless(), headers=headers)[0] == 413
    assert sent < 200_000


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=file-1", "after")],
)
def test_a_wrong_query_is_named(query: str, param: str) -> None:
    response = call(create_app(FakeEngine(), ApiOptions()), "GET", f"/v1/files?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_uploads_need_the_key_as_all_else_does() -> None:
    app = create_app(FakeEngine(), ApiOptions(api_keys=("k",)))
    assert call(app, "GET", "/v1/files").status_code == 401
    assert call(app, "POST", "/v1/files", data=VISION, files=FILE).status_code == 401


def test_the_store_forgets_what_has_expired_and_takes_new_files_then() -> None:
    now = 1000.0
    store = FileStore(10, 60, lambda: now)
    first = store.add(b"12345", "a", "vision")
    brief = store.add(b"12345", "b", "vision", expires_after=10)
    with pytest.raises(PayloadTooLarge):
        store.add(b"1", "c", "vision")
    now += 10
    with pytest.raises(NotFoundError):
        store.get(brief.id)
    assert store.list() == [first]
    store.add(b"12345", "c", "vision")
    now += 50
    with pytest.raises(NotFoundError):
        store.delete(first.id)


def test_ids_are_never_alike_and_files_may_stay_for_good() -> None:
    now = 1000.0
    store = FileStore(1000, 0, lambda: now)
    ids = {store.add(b"x", "a", "vision").id for _ in range(100)}
    assert len(ids) == 100
    now += 1e9
    assert len(store.list()) == 100
