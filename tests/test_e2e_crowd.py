"""Many clients at once: each gets its own answer, leavers disturb nobody, memory stays level."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from scripts.hardening.watch import anonymous
from tests.asking import BLUE, GREEN, RED, YELLOW, shape, user
from tests.live import LiveServer

COLOURS = {"red": RED, "blue": BLUE, "green": GREEN, "yellow": YELLOW}
KINDS = ("circle", "square")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of our own: its memory and its counts are looked at."""
    caches = ("--image-cache-bytes", "1MiB", "--cache-ram", "8")
    flags = ("--parallel", "8", "--ctx-size", "4096", *caches)
    with LiveServer(tmp_path_factory.mktemp("crowd"), *flags) as server:
        yield server


def pictures(count: int) -> Iterator[tuple[str, str, Image.Image]]:
    """Pictures that all differ, with their colour and kind."""
    kinds = itertools.cycle(itertools.product(COLOURS, KINDS))
    for index, (colour, kind) in zip(range(count), kinds, strict=False):
        picture = shape(kind, COLOURS[colour])
        picture.putpixel((index % 200, index // 200), (index % 256, 1, 2))
        yield colour, kind, picture


async def one(client: openai.AsyncOpenAI, picture: Image.Image, leave_after: int = 0) -> str:
    """What is in the picture, streamed; with ``leave_after``, the client goes after some pieces."""
    stream = await client.chat.completions.create(
        model="demo",
        messages=[user(picture, "What is in the picture?")],  # type: ignore[list-item]
        temperature=0,
        max_tokens=40,
        stream=True,
    )
    text = ""
    async for piece in _pieces(stream):
        text += piece
        if leave_after and len(text) > leave_after:
            await stream.close()
            return ""
    return text


async def _pieces(stream: openai.AsyncStream[Any]) -> AsyncIterator[str]:
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def values(server: LiveServer) -> dict[str, float]:
    """The metrics without labels' values, by name."""
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r"^(llava_\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_thirty_two_clients_each_get_their_own_answer(server: LiveServer) -> None:
    """Some leave in the middle; the others are told of their own picture and no other."""
    asked = list(pictures(32))
    leavers = set(random.Random(1).sample(range(32), 8))

    async def crowd() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(
                *(
                    one(client, picture, leave_after=3 if index in leavers else 0)
                    for index, (_, _, picture) in enumerate(asked)
                )
            )

    for index, ((colour, kind, _), text) in enumerate(
        zip(asked, asyncio.run(crowd()), strict=True)
    ):
        if index not in leavers:
            assert colour in text, (index, text)
            assert kind in text, (index, text)
    after = values(server)
    assert after["llava_num_requests_running"] == after["llava_num_requests_waiting"] == 0
    assert after["llava_kv_cache_usage_perc"] == 0


def test_the_first_picture_again_after_another(server: LiveServer) -> None:
    (_, _, first), (_, _, other) = pictures(2)
    other.putpixel((7, 7), RED)

    async def three() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return [await one(client, picture) for picture in (first, other, first)]

    before = values(server)["llava_prefix_cache_hits_total"]
    texts = asyncio.run(three())
    assert texts[0] == texts[2] != texts[1]
    assert values(server)["llava_prefix_cache_hits_total"] >= before + 64


def test_the_engine_does_not_grow_with_the_pictures(server: LiveServer) -> None:
    """300 pictures that nobody sent before: neither process keeps more after them than after 60."""
    album = list(pictures(360))

    async def show(some: list[tuple[str, str, Image.Image]]) -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            rest = iter(some)

            async def client_of_its_own() -> None:
                for _, _, picture in rest:
                    picture.putpixel((100, 0), (9, 9, 9))  # unlike those of the other tests
                    await client.chat.completions.create(
                        model="demo",
                        messages=[user(picture, "Which colour?")],  # type: ignore[list-item]
                        max_tokens=2,
                    )

            await asyncio.gather(*(client_of_its_own() for _ in range(6)))

    def held() -> list[int]:
        return [anonymous(pid) for pid in (server.process.pid, server.engine_pid())]

    asyncio.run(show(album[:60]))
    before = held()
    asyncio.run(show(album[60:]))
    after = held()
    # KiB. One picture's pixels and rows are 190 KiB: 300 kept ones would be 55 MiB.
    assert after[0] - before[0] < 16 * 1024, "the web process grows"
    assert after[1] - before[1] < 8 * 1024, "the engine grows"
