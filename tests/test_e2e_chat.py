"""Chat completions through a real server, a real engine and OpenAI's own client."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict

import httpx
import openai
from asking import BLUE, GREEN, RED, YELLOW, answer, ask, data_url, shape, user
from live import LiveServer

from scripts.demo.heldout import cases, is_right

COLOURS = {"red": RED, "blue": BLUE, "green": GREEN, "yellow": YELLOW}
WHAT_COLOUR = "What colour is the circle?"


def test_a_strangers_red_circle_is_called_a_red_circle(client: openai.OpenAI) -> None:
    described = answer(client, shape("circle", RED), "What is in this picture?").lower()
    assert "red circle" in described


def test_sixty_held_out_questions_with_known_answers(client: openai.OpenAI) -> None:
    wrong = defaultdict(list)
    asked = cases(30, seed=77_000_000)[:60]
    for case in asked:
        reply = client.chat.completions.create(
            model="demo",
            messages=case.messages(),  # type: ignore[arg-type]
            temperature=0,
            max_tokens=64,
        )
        said = reply.choices[0].message.content or ""
        if not is_right(case, said):
            wrong[case.category].append((case.question, case.answer, said))
    assert len(asked) == 60
    assert sum(map(len, wrong.values())) <= 6, dict(wrong)


def test_four_pictures_one_after_the_other_each_get_their_own_answer(client: openai.OpenAI) -> None:
    for name, colour in COLOURS.items():
        assert name in answer(client, shape("circle", colour), WHAT_COLOUR).lower()


def test_picture_then_text_only_then_the_picture_again(client: openai.OpenAI) -> None:
    picture = shape("square", BLUE)
    question = "What is in this picture?"
    first = answer(client, picture, question)
    without = ask(client, question)
    assert "blue" in first.lower()
    assert "blue" not in (without.choices[0].message.content or "").lower()
    assert without.usage.prompt_tokens_details.image_tokens == 0
    assert answer(client, picture, question) == first


def test_a_stream_says_what_the_whole_reply_says(client: openai.OpenAI) -> None:
    picture = shape("circle", GREEN)
    whole = ask(client, picture, "Describe the picture.")
    chunks = list(
        ask(
            client,
            picture,
            "Describe the picture.",
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[-1].choices == []
    usages = chunks[-1].usage, whole.usage
    assert len({(u.prompt_tokens, u.completion_tokens, u.total_tokens) for u in usages}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_usage_counts_the_picture_apart(client: openai.OpenAI) -> None:
    text = ask(client, "\n" + WHAT_COLOUR).usage
    seen = ask(client, shape("circle", RED), WHAT_COLOUR).usage
    tokens = seen.prompt_tokens_details.image_tokens
    assert tokens == 64
    assert seen.prompt_tokens - text.prompt_tokens == tokens


def test_several_pictures_and_turns_in_order(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo",
        messages=[  # type: ignore[list-item]
            {"role": "system", "content": "Answer briefly."},
            user(shape("circle", RED), WHAT_COLOUR),
            {"role": "assistant", "content": "The circle is red."},
            user(shape("circle", BLUE), WHAT_COLOUR),
        ],
        temperature=0,
        max_tokens=32,
    )
    assert "blue" in (reply.choices[0].message.content or "").lower()
    assert reply.usage.prompt_tokens_details.image_tokens == 128


def test_the_reply_and_the_log_say_what_became_of_the_picture(
    client: openai.OpenAI, demo: LiveServer
) -> None:
    reply = ask(client, shape("circle", RED, (640, 480)), WHAT_COLOUR)
    (image,) = reply.model_extra["images"]
    assert image["source"] == {"width": 640, "height": 480}
    assert image["encoded"] == {"width": 112, "height": 112}
    assert (image["grid"], image["tokens"]) == ({"width": 8, "height": 8}, 64)
    assert 0 < image["encode_ms"] < 60_000
    line = r"encoded image to 64 tokens \(640x480 -> 112x112, 8x8 grid, 1 tile\) in \d+ ms"
    assert re.search(line, demo.log)


def test_max_tokens_stop_and_seed(client: openai.OpenAI) -> None:
    picture = shape("circle", RED)
    short = ask(client, picture, "Describe the picture.", max_completion_tokens=2, max_tokens=None)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 2
    stopped = ask(client, picture, WHAT_COLOUR, stop=["red"])
    assert stopped.choices[0].finish_reason == "stop"
    assert "red" not in (stopped.choices[0].message.content or "")
    hot = {"temperature": 2.0, "max_tokens": 24}
    one, again = (answer(client, picture, "Hello!", seed=7, **hot) for _ in range(2))
    others = {answer(client, picture, "Hello!", seed=seed, **hot) for seed in range(8, 13)}
    assert one == again
    assert others != {one}


def test_markers_and_the_pictures_own_url_in_the_text_are_only_text(client: openai.OpenAI) -> None:
    picture = shape("circle", RED)
    for typed in ("<__media__>", "<image>", data_url(shape("circle", RED, (24, 24)))):
        for pictures in ((), (picture,)):
            usage = ask(client, *pictures, typed, max_tokens=4).usage
            assert usage.prompt_tokens_details.image_tokens == 64 * len(pictures)


async def stream_text(client: openai.AsyncOpenAI, kind: str, colour: str) -> str:
    """What the model says of a picture, streamed."""
    stream = await client.chat.completions.create(
        model="demo",
        messages=[user(shape(kind, COLOURS[colour]), "Describe the picture.")],  # type: ignore[list-item]
        temperature=0,
        max_tokens=32,
        stream=True,
    )
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


def test_eight_clients_at_once_each_get_their_own_answer(demo: LiveServer) -> None:
    asked = [(kind, name) for kind in ("circle", "square") for name in COLOURS]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="unused") as client:
            return await asyncio.gather(*(stream_text(client, *one) for one in asked))

    for (kind, name), said in zip(asked, asyncio.run(all_at_once()), strict=True):
        assert f"{name} {kind}" in said.lower()


def metric(server: LiveServer, name: str) -> float:
    """The sum of a metric's samples."""
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"no {name}"
    return sum(map(float, found))


def test_a_stream_that_is_closed_early_frees_its_slot(
    client: openai.OpenAI, demo: LiveServer
) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": True,
        "temperature": 2,
        # Hot enough to ramble, and no end-of-turn word to stop at.
        "max_tokens": 4000,
    }
    for _ in range(8):  # twice as many as there are slots
        with httpx.stream("POST", f"{demo.url}/v1/chat/completions", json=body) as reply:
            next(reply.iter_lines())
    deadline = time.monotonic() + 10
    while metric(demo, "llava_num_requests_running") > 0:
        assert time.monotonic() < deadline, "an abandoned request still runs"
        time.sleep(0.05)
    assert "red" in answer(client, shape("circle", RED), WHAT_COLOUR)


def misses(server: LiveServer) -> float:
    """Pictures that had to be encoded."""
    queries, hits = (metric(server, f"llava_mm_cache_{what}_total") for what in ("queries", "hits"))
    return queries - hits


def test_a_picture_and_its_prompt_are_computed_once(
    client: openai.OpenAI, demo: LiveServer
) -> None:
    picture = shape("square", GREEN, (210, 190))
    ask(client, picture, WHAT_COLOUR)
    encodes = misses(demo)
    again = ask(client, picture, "How many shapes are there?")
    assert again.usage.prompt_tokens_details.cached_tokens > 64
    assert again.model_extra["images"][0]["encode_ms"] == 0
    under_another = client.chat.completions.create(
        model="demo",
        messages=[{"role": "system", "content": "Be brief."}, user(picture, WHAT_COLOUR)],  # type: ignore[list-item]
        max_tokens=8,
    )
    assert under_another.usage.prompt_tokens_details.cached_tokens < 64
    assert under_another.model_extra["images"][0]["encode_ms"] == 0
    assert misses(demo) == encodes


def test_metrics_count_what_was_asked(client: openai.OpenAI, demo: LiveServer) -> None:
    names = ("llava_image_tokens_total", "llava_images_total", "llava_generation_tokens_total")
    before = [metric(demo, name) for name in names]
    usage = ask(client, shape("circle", RED), WHAT_COLOUR).usage
    after = [metric(demo, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [64, 1, usage.completion_tokens]
    assert metric(demo, "llava_time_to_first_token_seconds_count") > 0
    assert metric(demo, "llava_memory_bytes") > 1_000_000


def test_models_memory_and_health_tell_what_is_loaded(
    client: openai.OpenAI, demo: LiveServer
) -> None:
    (model,) = client.models.list().data
    vision = model.model_extra["meta"]["vision"]
    assert (vision["image_size"], vision["tokens_per_image"]) == (112, 64)
    memory = httpx.get(f"{demo.url}/v1/memory").json()
    parts = {part["part"]: part for part in memory["parts"]}
    assert parts.keys() >= {"weights", "kv_cache", "vision_encoder", "vision_compute", "compute"}
    assert all(part["predicted"] > 0 for part in parts.values())
    assert all(part["measured"] > 0 for name, part in parts.items() if name != "image_cache")
    assert memory["devices"][0]["total"] > memory["devices"][0]["free"] > 0
    assert "vision_encoder" in demo.log
