"""Pictures by URL and from disk, through the whole app; what they cost; how long a prompt is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import (
    FakeEngine,
    call,
    chat,
    data_url,
    engine_ready,
    image_part,
    post_chat,
    serving,
    text_part,
)
from image_files import corners, encode, tower

from server.api.app import create_app
from server.api.options import ApiOptions
from server.errors import EngineUnavailable
from server.images.options import ImageOptions
from server.images.url_policy import FetchOptions
from server.messages import ImageInput

PNG = encode(corners(), "PNG")
URL = "messages[0].content[0].image_url.url"
INSPECT = "/v1/images/inspect"
COUNT = "/v1/chat/completions/input_tokens"


class Host(ThreadingHTTPServer):
    """A picture host on loopback; /slow waits for ``released``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.released = threading.Event()
        self.name = f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/slow":
            self.server.released.wait(5)
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "http://169.254.169.254/latest/meta-data")
        self.end_headers()
        self.wfile.write(PNG)


@contextmanager
def hosting() -> Iterator[Host]:
    with Host() as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield host
        finally:
            host.released.set()
            host.shutdown()
            thread.join()


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting() as host:
        yield host


def by_url(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def identity(part: str | ImageInput) -> str:
    return part if isinstance(part, str) else part.digest


def allowing(host: Host, **options: Any) -> FetchOptions:
    return FetchOptions(enabled=True, allow=(host.name,), **options)


def pictures(engine: FakeEngine) -> list[ImageInput]:
    return [part for part in engine.parts[-1] if isinstance(part, ImageInput)]


def test_a_url_is_fetched_once_for_all_its_places(host: Host) -> None:
    engine = FakeEngine()
    url = f"http://{host.name}/a.png"
    parts = [by_url(url), text_part("and"), by_url(url), image_part(), by_url(url)]
    response = post_chat(engine, chat(parts), fetch=allowing(host))
    assert response.status_code == 200
    assert host.asked == ["/a.png"]
    first, second, other, third = pictures(engine)
    # They differ in the field that an error would name, and share one decoded picture.
    assert first.rgb is second.rgb is third.rgb
    assert (first.source_width, first.source_height) == corners().size
    assert other.digest != first.digest


@pytest.mark.parametrize(
    ("path", "code"),
    [("http://{}/away", "image_url_not_allowed"), ("http://{}/a.png", "image_address_not_allowed")],
)
def test_what_is_refused_is_a_400_that_names_the_field(host: Host, path: str, code: str) -> None:
    allowed = code == "image_url_not_allowed"
    # Port 80 of loopback is refused by its address; this host's port would be by its number.
    url = path.format(host.name if allowed else "127.0.0.1")
    fetch = allowing(host) if allowed else FetchOptions(enabled=True)
    response = post_chat(FakeEngine(), chat([by_url(url)]), fetch=fetch)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, URL)
    assert host.asked == (["/away"] if allowed else [])
    assert "169.254" not in error["message"]


@pytest.mark.parametrize("url", [" " * 300_000, " " * 300_000 + "http://a.example/", "A" * 9000])
def test_a_long_text_that_is_no_data_url_is_refused_by_its_head(url: str) -> None:
    response = post_chat(FakeEngine(), chat([by_url(url)]), fetch=FetchOptions(enabled=True))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, URL)
    assert error["code"] == "unsupported_image_url"
    assert "only data: URLs" in error["message"]


def test_white_space_around_a_url_is_forgiven(host: Host) -> None:
    part = image_part()
    part["image_url"]["url"] = f"\n {part['image_url']['url']} "
    parts = [by_url(f" http://{host.name}/a.png\n"), part]
    response = post_chat(FakeEngine(), chat(parts), fetch=allowing(host))
    assert response.status_code == 200


def test_without_urls_none_is_fetched(host: Host) -> None:
    url = f"http://{host.name}/a.png"
    response = post_chat(FakeEngine(), chat([by_url(url)]), fetch=FetchOptions(allow=(host.name,)))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "unsupported_image_url")
    assert host.asked == []


def test_a_slow_host_keeps_nobody_else_waiting(host: Host) -> None:
    """More slow pictures than there are decoding threads, and still others get through."""
    engine = FakeEngine()
    slow = [by_url(f"http://{host.name}/slow#{n}") for n in range(4)]
    answers: list[httpx.Response] = []
    with serving(engine, fetch=allowing(host), image_decoders=1) as url:

        def ask_slowly() -> None:
            answers.append(httpx.post(f"{url}/v1/chat/completions", json=chat(slow)))

        thread = threading.Thread(target=ask_slowly)
        thread.start()
        while len(host.asked) < 4:
            time.sleep(0.01)
        quick = httpx.post(f"{url}/v1/chat/completions", json=chat([image_part()]))
        assert quick.status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200
        assert answers == []
        host.released.set()
        thread.join(10)
    assert [answer.status_code for answer in answers] == [200]


def test_a_slow_host_leaves_slots_to_others(host: Host) -> None:
    slow = [by_url(f"http://{host.name}/slow#{n}") for n in range(3)]
    with hosting() as other:
        fetch = FetchOptions(enabled=True, allow=(host.name, other.name), at_once=2)
        with serving(FakeEngine(), fetch=fetch) as url:
            path = f"{url}/v1/chat/completions"
            thread = threading.Thread(target=lambda: httpx.post(path, json=chat(slow)))
            thread.start()
            while not host.asked:
                time.sleep(0.01)
            quick = chat([by_url(f"http://{other.name}/a.png")])
            assert httpx.post(path, json=quick, timeout=3).status_code == 200
            assert host.asked == ["/slow"], "the host's next picture waits for its first"
            host.released.set()
            thread.join(10)
    assert len(host.asked) == 3


def test_files_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    good, bad = by_url(f"file://{tmp_path}/a.png"), by_url("file:///etc/passwd")
    assert post_chat(FakeEngine(), chat([good]), image_root=tmp_path).status_code == 200
    for body, options, code in (
        (bad, {"image_root": tmp_path}, "image_file_not_found"),
        (good, {}, "unsupported_image_url"),
    ):
        response = post_chat(FakeEngine(), chat([body]), **options)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, code, URL)


def inspected(vision: Any = ..., **request: Any) -> httpx.Response:
    ready = engine_ready() if vision is ... else engine_ready(vision)
    app = create_app(FakeEngine(ready=ready), ApiOptions(images=ImageOptions(max_edge=200)))
    return call(app, "POST", INSPECT, **request)


def test_inspect_tells_what_a_picture_is_and_costs() -> None:
    turned = corners(64, 48)
    exif = turned.getexif()
    exif[0x0112] = 6
    jpeg = encode(turned, "JPEG", exif=exif)
    answer = inspected(files={"file": ("a.jpg", jpeg)}).json()
    assert answer == {
        "object": "image.inspection",
        "format": "JPEG",
        "bytes": len(jpeg),
        "stored": {"width": 64, "height": 48},
        "source": {"width": 48, "height": 64},
        "encoded": {"width": 112, "height": 112},
        "tokens": 64,
        "image_size": 112,
        "resolutions": [
            {"image_size": side * 14, "squares": 1, "tokens": side**2} for side in (4, 5, 8, 10, 16)
        ],
    }


def test_inspect_by_url_and_for_towers_that_take_any_size() -> None:
    answer = inspected(tower(fixed=False), json={"url": data_url(size=(400, 100))}).json()
    assert answer["encoded"] == {"width": 200, "height": 50}
    assert (answer["image_size"], answer["resolutions"]) == (None, [])


def test_inspect_takes_an_upload_s_id_and_a_web_address(host: Host) -> None:
    app = create_app(FakeEngine(), ApiOptions(fetch=allowing(host)))
    form = {"data": {"purpose": "vision"}, "files": {"file": ("a.png", PNG)}}
    file_id = call(app, "POST", "/v1/files", **form).json()["id"]
    for url in (file_id, f"http://{host.name}/a.png"):
        answer = call(app, "POST", INSPECT, json={"url": url}).json()
        assert answer["source"] == {"width": 64, "height": 48}


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        ({"json": {}}, "missing_required_parameter", "url"),
        ({"json": {"url": "file-1"}}, "file_not_found", "url"),
        ({"json": {"url": "data:,x"}}, "unsupported_image_format", "url"),
        ({"files": {"file": ("a", b"x")}}, "unsupported_image_format", "file"),
        ({"files": {"other": ("a", b"x")}}, "missing_required_parameter", "file"),
        ({"content": b"x"}, "invalid_json", None),
    ],
)
def test_inspect_refuses(request_: Any, code: str, param: str | None) -> None:
    response = inspected(**request_)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_a_model_that_cannot_see_inspects_nothing() -> None:
    response = inspected(None, json={"url": data_url()})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "vision_not_available"


def test_a_chat_request_is_counted_and_not_answered() -> None:
    engine = FakeEngine()
    app = create_app(engine, ApiOptions())
    body = chat([image_part(), text_part("Hi")], stream=True, max_tokens=5)
    response = call(app, "POST", COUNT, json=body)
    assert response.json() == {
        "object": "response.input_tokens",
        "input_tokens": 74,
        "text_tokens": 10,
        "image_tokens": 64,
    }
    assert engine.parts == []
    call(app, "POST", "/v1/chat/completions", json=chat([image_part(), text_part("Hi")]))
    (counted,), (answered,) = engine.counted, engine.parts
    assert [*map(identity, counted)] == [*map(identity, answered)]


def test_counting_refuses_as_the_chat_does() -> None:
    bad = call(create_app(FakeEngine(), ApiOptions()), "POST", COUNT, json=chat(temperature=9))
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "temperature")
    lost = FakeEngine(error=EngineUnavailable("lost"))
    assert call(create_app(lost, ApiOptions()), "POST", COUNT, json=chat()).status_code == 503
