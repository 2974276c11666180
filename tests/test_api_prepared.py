"""A picture that was seen before is not decoded again; one that many send is decoded once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import FakeEngine, chat, data_url, image_part, post_chat, serving, text_part, wait_for
from image_files import corners, encode
from prometheus_client.parser import text_string_to_metric_families

from server.api.generate.pictures import SharedWork
from server.decoders.pool import DecoderPool, Done, Work
from server.messages import ImageInput

PATH = "/v1/chat/completions"
BROKEN = "data:image/png;base64,AAAA"


@dataclass
class Decodes:
    """Counts decodes; each waits until ``go_on``, where that is not set."""

    seen: list[bytes] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decodes]:
    found, real = Decodes(), DecoderPool.run
    found.go_on.set()

    async def counting(pool: DecoderPool, work: Work, client: str) -> Done:
        found.seen.append(work.data)
        await asyncio.to_thread(found.go_on.wait, 10)
        return await real(pool, work, client)

    monkeypatch.setattr(DecoderPool, "run", counting)
    yield found
    found.go_on.set()


def part(url: str, detail: str | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def numbers(url: str) -> dict[tuple[str, ...], float]:
    """The families of prepared pictures, and the decodes by result."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {
        (
            sample.name,
            *([sample.labels["result"]] if "result" in sample.labels else []),
        ): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith(("llava_image_prepared", "llava_image_decode_seconds_count"))
    }


def given(engine: FakeEngine) -> list[ImageInput]:
    return [each for parts in engine.parts for each in parts if isinstance(each, ImageInput)]


def test_the_second_time_nothing_is_decoded(decodes: Decodes) -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        first, second = (
            httpx.post(url + PATH, json=chat([image_part(), text_part(question)])).json()
            for question in ("What?", "Why?")
        )
        counted = numbers(url)
    assert len(decodes.seen) == 1
    before, after = first["images"][0], second["images"][0]
    assert before.pop("decode_ms") > after.pop("decode_ms") == 0.0
    assert before == after
    one, same = given(engine)
    assert (one.rgb, one.digest) == (same.rgb, same.digest)
    assert counted["llava_image_prepared_queries_total",] == 2
    assert counted["llava_image_prepared_hits_total",] == 1
    assert counted["llava_image_prepared_bytes",] > len(one.rgb)
    assert counted["llava_image_decode_seconds_count", "ok"] == 1
    assert counted["llava_image_decode_seconds_count", "cached"] == 1


def test_another_detail_or_another_picture_is_another(decodes: Decodes) -> None:
    engine = FakeEngine()
    with serving(engine) as url:
        for each in (part(data_url()), part(data_url(), "low"), part(data_url((0, 0, 255)))):
            assert httpx.post(url + PATH, json=chat([each])).status_code == 200
    assert len(decodes.seen) == 3
    assert len({each.digest for each in given(engine)}) == 3


def test_without_room_each_is_decoded_again(decodes: Decodes) -> None:
    with serving(FakeEngine(), image_prepared_bytes=0) as url:
        for _ in range(2):
            assert httpx.post(url + PATH, json=chat([image_part()])).status_code == 200
    assert len(decodes.seen) == 2


def test_questions_that_come_together_share_one_decode(decodes: Decodes) -> None:
    decodes.go_on.clear()
    engine = FakeEngine()
    with serving(engine) as url, ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(httpx.post, url + PATH, json=chat([image_part(), text_part(str(n))]))
            for n in range(8)
        ]
        wait_for(lambda: numbers(url)["llava_image_prepared_hits_total",] == 7)
        decodes.go_on.set()
        replies = [each.result().json()["images"][0] for each in asked]
    assert len(decodes.seen) == 1
    assert sorted(reply["decode_ms"] > 0 for reply in replies) == [False] * 7 + [True]
    assert len({each.digest for each in given(engine)}) == 1


def test_the_first_one_may_leave(decodes: Decodes) -> None:
    decodes.go_on.clear()
    engine = FakeEngine()
    with serving(engine) as url, ThreadPoolExecutor(2) as pool:
        body = chat([image_part()])
        first = pool.submit(httpx.post, url + PATH, json=body, timeout=1.0)
        wait_for(lambda: decodes.seen)
        second = pool.submit(httpx.post, url + PATH, json=body)
        assert isinstance(first.exception(), httpx.ReadTimeout)
        decodes.go_on.set()
        assert second.result().status_code == 200
    assert len(decodes.seen) == 1
    assert len(engine.parts) == 1


def test_what_is_wrong_is_told_to_each_in_its_own_words_and_each_time(decodes: Decodes) -> None:
    decodes.go_on.clear()
    bodies = [chat([text_part("x")] * n + [part(BROKEN)]) for n in range(3)]
    with serving(FakeEngine()) as url, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(httpx.post, url + PATH, json=body) for body in bodies]
        wait_for(lambda: numbers(url)["llava_image_prepared_queries_total",] == 3)
        decodes.go_on.set()
        answers = [each.result() for each in asked]
        assert len(decodes.seen) == 1
        answers.append(httpx.post(url + PATH, json=bodies[0]))
        assert numbers(url)["llava_image_prepared_bytes",] == 0
    errors = [answer.json()["error"] for answer in answers]
    assert {answer.status_code for answer in answers} == {400}
    places = [f"messages[0].content[{n}].image_url.url" for n in (0, 1, 2, 0)]
    assert [error["param"] for error in errors] == places
    assert {error["code"] for error in errors} == {"unsupported_image_format"}
    assert len(decodes.seen) == 2


def test_a_file_that_changed_is_another_picture(tmp_path: Path, decodes: Decodes) -> None:
    file, engine = tmp_path / "a.png", FakeEngine()
    with serving(engine, image_root=tmp_path) as url:
        for picture in (corners(), corners(), corners().rotate(180)):
            file.write_bytes(encode(picture, "PNG"))
            body = chat([part(f"file://{file}")])
            assert httpx.post(url + PATH, json=body).status_code == 200
    assert len(decodes.seen) == 2
    first, second, third = given(engine)
    assert first.digest == second.digest != third.digest


def test_a_large_picture_is_shared_too(decodes: Decodes) -> None:
    """One whose URL is too long to be hashed on the event loop."""
    engine = FakeEngine()
    content = encode(corners(), "PNG") + bytes(600_000)
    with serving(engine) as url:
        uploaded = httpx.post(
            f"{url}/v1/files", data={"purpose": "vision"}, files={"file": ("a.png", content)}
        ).json()["id"]
        for each in (part(uploaded), part(uploaded), part(f" {uploaded} ")):
            assert httpx.post(url + PATH, json=chat([each, each])).status_code == 200
    assert len(decodes.seen) == 1
    assert len({each.digest for each in given(engine)}) == 1


def test_pictures_of_one_request_are_prepared_once_though_long(decodes: Decodes) -> None:
    url = data_url() + "A" * 80_000
    engine = FakeEngine()
    assert post_chat(engine, chat([part(url), part(url)])).status_code == 200
    assert len(decodes.seen) == 1


class Steps:
    """Work that goes on when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def work(self) -> str:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"


def test_shared_work_survives_whoever_leaves_but_the_last() -> None:
    async def go() -> None:
        steps, shared = Steps(), SharedWork[str, str]()
        waiting = [asyncio.ensure_future(shared.of("a", steps.work)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.wait(waiting[:2])
        steps.go_on.set()
        assert await waiting[2] == "done"
        assert (steps.begun, steps.cancelled, "a" in shared) == (1, 0, False)

    asyncio.run(go())


def test_shared_work_ends_with_the_last_and_nobody_joins_what_ends() -> None:
    async def go() -> None:
        steps, shared = Steps(), SharedWork[str, str]()
        waiting = [asyncio.ensure_future(shared.of("a", steps.work)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert "a" not in shared
        again = asyncio.ensure_future(shared.of("a", steps.work))
        await asyncio.sleep(0)
        steps.go_on.set()
        assert await again == "done"
        assert (steps.begun, steps.cancelled) == (2, 1)

    asyncio.run(go())


def test_shared_work_fails_for_all_who_wait() -> None:
    async def fail() -> str:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def go() -> None:
        shared = SharedWork[str, str]()
        ends = await asyncio.gather(
            *(shared.of("a", fail) for _ in range(3)), return_exceptions=True
        )
        assert [type(end) for end in ends] == [ValueError] * 3
        assert "a" not in shared

    asyncio.run(go())
