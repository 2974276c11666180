"""The page at /, over HTTP and in a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import FakeEngine, call
from live import ROOT, LiveServer

from server.api.app import create_app
from server.api.options import ApiOptions
from server.api.page import FOLDER, PAGE_PATHS

EXAMPLE = ROOT / "models" / "demo" / "example.png"


def test_the_page_is_served_with_all_its_files_and_a_strict_policy() -> None:
    app = create_app(FakeEngine(), ApiOptions(api_keys=("secret",)))
    for path in PAGE_PATHS:
        response = call(app, "GET", path)
        assert response.status_code == 200, "the page itself asks for the key"
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert {path.name for path in FOLDER.iterdir()} == {
        *(path.rpartition("/")[2] or "index.html" for path in PAGE_PATHS)
    }


def test_the_page_can_be_switched_off() -> None:
    app = create_app(FakeEngine(), ApiOptions(page=False))
    assert call(app, "GET", "/").status_code == 404


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_parsed_as_html() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, path


playwright = pytest.importorskip("playwright.sync_api", reason="it is for the browser tests")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        made = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield made
        made.close()


@pytest.fixture
def page(browser: playwright.Browser, demo: LiveServer) -> Iterator[playwright.Page]:
    made = browser.new_page()
    faults: list[str] = []
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("console", lambda line: line.type == "error" and faults.append(line.text))
    made.goto(demo.url)
    made.get_by_text("context").wait_for()
    yield made
    made.close()
    assert faults == []


def ask(page: playwright.Page, question: str) -> str:
    done = page.locator("#conversation li.assistant .cost").filter(has_text="tokens")
    before = done.count()
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")
    done.nth(before).wait_for()
    return page.locator("#conversation li.assistant .text").last.inner_text()


@browser_only
def test_a_picture_is_described_and_shown_as_the_tower_saw_it(
    page: playwright.Page, demo: LiveServer
) -> None:
    page.locator("#pick").set_input_files(EXAMPLE)
    page.locator("#attached li").wait_for()
    inspected = httpx.post(
        f"{demo.url}/v1/images/inspect", files={"file": ("a.png", EXAMPLE.read_bytes())}
    ).json()
    assert f"{inspected['tokens']} tokens" in page.locator("#attached li").inner_text()
    answer = ask(page, "Describe the picture.")
    assert answer == "A red circle and a blue square on a white background."
    figure = page.locator("figure")
    assert figure.locator("canvas").get_attribute("data-cells") == str(inspected["tokens"])
    assert f"{inspected['tokens']} tokens" in figure.locator("figcaption").inner_text()
    assert f"({inspected['tokens']} of pictures" in page.locator(".cost").last.inner_text()


@browser_only
def test_two_pictures_follow_up_regenerate_edit_and_clear(page: playwright.Page) -> None:
    page.locator("#pick").set_input_files([EXAMPLE, EXAMPLE])
    page.locator("#attached li").nth(1).wait_for()
    page.get_by_label("Remove example.png").first.click()
    assert page.locator("#attached li").count() == 1
    ask(page, "What colour is the circle?")
    assert "blue" in ask(page, "What colour is the square?").lower()
    page.get_by_role("button", name="Regenerate").click()
    page.locator("#conversation li.assistant .cost").nth(1).filter(has_text="tokens").wait_for()
    assert page.locator("#conversation > li").count() == 4
    page.get_by_role("button", name="Edit").first.click()
    assert page.get_by_label("Question").input_value() == "What colour is the circle?"
    assert page.locator("#attached li").count() == 1
    assert page.locator("#conversation > li").count() == 0


@browser_only
def test_a_stream_can_be_stopped_and_the_next_one_works(page: playwright.Page) -> None:
    body = 'data: {"choices": [{"delta": {"content": "One"}}]}\n\n'

    def hold(route: playwright.Route) -> None:
        page.evaluate("() => document.getElementById('stop').click()")
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", hold)
    page.get_by_label("Question").fill("Hello")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Send").wait_for()
    page.unroute("**/v1/chat/completions")
    assert ask(page, "Hello")


@browser_only
def test_a_hostile_answer_is_text(page: playwright.Page) -> None:
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    chunk = json.dumps({"choices": [{"delta": {"content": evil}}]})
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=200,
            content_type="text/event-stream",
            body=f"data: {chunk}\n\ndata: [DONE]\n\n",
        ),
    )
    page.get_by_label("Question").fill("Hello")
    page.get_by_label("Question").press("Enter")
    page.get_by_text("onerror").wait_for()
    assert page.locator("#conversation .text").last.inner_text() == evil
    assert page.title() == "llava-server"
    assert page.locator("#conversation img, #conversation script").count() == 0


@browser_only
def test_a_file_that_is_no_picture_is_refused_by_its_name(
    browser: playwright.Browser, demo: LiveServer, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    page = browser.new_page()
    page.goto(demo.url)
    page.locator("#pick").set_input_files(bad)
    error = page.get_by_role("alert").filter(has_text="bad.png")
    error.wait_for()
    assert page.locator("#attached li").count() == 0
    page.close()


@browser_only
def test_it_works_by_keyboard_on_a_phone_in_the_dark(
    browser: playwright.Browser, demo: LiveServer
) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.goto(demo.url)
    page.get_by_text("context").wait_for()
    page.locator("#pick").set_input_files(EXAMPLE)
    page.locator("#attached li").wait_for()
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("Describe the picture.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    page.keyboard.press("Enter")
    page.locator(".cost").filter(has_text="tokens").wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 400, "nothing is cut off or scrolls sideways"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(22, 25, 31)"
    page.close()


@browser_only
def test_with_keys_the_page_asks_for_one(browser: playwright.Browser, tmp_path: Path) -> None:
    with LiveServer(tmp_path, "--api-key", "secret") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_role("textbox", name="Key").fill("secret")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("context").wait_for()
        assert ask(page, "Hello")
        page.close()
