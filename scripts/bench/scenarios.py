"""What is done to a server and timed. Each scenario gives its figures of one round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from scripts.bench.client import ChatClient, Message, Reply
from scripts.bench.figures import percentile
from scripts.bench.pictures import Album
from scripts.bench.prompts import (
    DESCRIBE,
    EXTRACTION,
    OTHER_SYSTEMS,
    QUESTIONS,
    SAMPLING,
    TURNS,
    about,
    story,
)

Values = dict[str, float]
# A reader notices that a text stands still.
STILL_SECONDS = 0.25


@dataclass(slots=True)
class Course:
    """One server in one round, and how much is asked of it."""

    client: ChatClient
    album: Album
    tokens: int = 32
    stream_tokens: int = 256
    quick: bool = False
    ready_after: float = 0.0
    stories: int = 0

    def times(self, count: int) -> int:
        """How often something is repeated: fewer times when it shall be quick."""
        return max(1, count // 3) if self.quick else count

    def story(self) -> list[Message]:
        """A text request that was not made before in this round."""
        self.stories += 1
        return story(self.stories)

    async def ask(self, messages: list[Message], tokens: int | None = None) -> Reply:
        """One request to its end."""
        return await self.client.ask(messages, tokens or self.tokens)


async def start(course: Course) -> Values:
    """From the command to a health of 200, and on to the first answer of all."""
    began = time.perf_counter()
    await course.ask(course.story(), 1)
    first = course.ready_after + time.perf_counter() - began
    return {"start.ready": course.ready_after, "start.answer": first}


async def warm_up(course: Course) -> None:
    """Lets a server load its weights and grow its buffers before it is timed."""
    await course.ask(course.story())
    await course.ask(about(course.album.new(), DESCRIBE))
    await asyncio.gather(*(course.ask(course.story(), 8) for _ in range(4)))


async def new_picture(course: Course) -> Values:
    """A new picture, alone on the machine."""
    seen = [await course.ask(about(course.album.new(), DESCRIBE)) for _ in range(course.times(6))]
    return {"new_picture.first": median(reply.first for reply in seen)}


async def one_stream(course: Course) -> Values:
    """One text, long enough for the first tokens not to count."""
    length = course.tokens * 4
    seen = [await course.ask(course.story(), length) for _ in range(course.times(3))]
    return {"one_stream.rate": median(reply.rate for reply in seen)}


async def sampled_stream(course: Course) -> Values:
    """The same with the sampling that chat programs send."""
    length = course.tokens * 4
    seen = [
        await course.client.ask(course.story(), length, **SAMPLING, seed=1)
        for _ in range(course.times(3))
    ]
    return {"sampled_stream.rate": median(reply.rate for reply in seen)}


async def extraction(course: Course) -> Values:
    """Eight facts as JSON by a schema with long names: most of its tokens are forced."""
    walls = []
    for _ in range(course.times(3)):
        reply = await course.client.ask(
            course.story(), 400, response_format=EXTRACTION, ignore_eos=False
        )
        walls.append(reply.ended - reply.began)
    return {"extraction.wall": median(walls)}


async def connections(course: Course) -> Values:
    """A short text over a kept connection, and over a new one for each request."""
    kept = [await course.ask(course.story(), 1) for _ in range(course.times(6))]
    anew = [await course.client.ask_anew(course.story(), 1) for _ in range(course.times(6))]
    return {
        "connections.kept": median(reply.first for reply in kept),
        "connections.new": median(reply.first for reply in anew),
    }


async def six_clients(course: Course) -> Values:
    """Six clients, each asking about one new picture after the other."""
    each = course.times(3)
    pictures = [[course.album.new() for _ in range(each)] for _ in range(6)]

    firsts: list[float] = []

    async def client(mine: list[str]) -> None:
        for picture in mine:
            firsts.append((await course.ask(about(picture, DESCRIBE))).first)

    began = time.perf_counter()
    await asyncio.gather(*map(client, pictures))
    rate = 6 * each / (time.perf_counter() - began)
    return {"six_clients.rate": rate, "six_clients.first": percentile(firsts, 0.95)}


async def same_picture(course: Course) -> Values:
    """A picture that was asked about before, after other words than then."""
    picture = course.album.new()
    await course.ask(about(picture, DESCRIBE))
    systems = OTHER_SYSTEMS[: course.times(len(OTHER_SYSTEMS))]
    seen = [await course.ask(about(picture, DESCRIBE, system)) for system in systems]
    return {"same_picture.first": median(reply.first for reply in seen)}


async def eight_questions(course: Course) -> Values:
    """Eight different questions about one new picture, all sent at once."""
    walls = []
    for _ in range(course.times(2)):
        picture = course.album.new()
        began = time.perf_counter()
        await asyncio.gather(*(course.ask(about(picture, question)) for question in QUESTIONS))
        walls.append(time.perf_counter() - began)
    return {"eight_questions.wall": median(walls)}


async def conversation(course: Course) -> Values:
    """Five questions in a row, each with all that was said before."""
    firsts = []
    for _ in range(course.times(2)):
        messages = about(course.album.new(), TURNS[0])
        for turn, question in enumerate(TURNS):
            if turn:
                messages = [*messages, {"role": "user", "content": question}]
            reply = await course.ask(messages)
            messages = [*messages, {"role": "assistant", "content": reply.text}]
            if turn:
                firsts.append(reply.first)
    return {"conversation.first": median(firsts)}


async def streams(course: Course) -> Values:
    """Two texts are streamed while one client sends new pictures without a pause."""
    gaps: list[float] = []
    firsts: list[float] = []
    for _ in range(course.times(2)):
        album = [course.album.new() for _ in range(course.times(24))]
        shared: list[float] = []
        texts = asyncio.gather(
            *(course.ask(course.story(), course.stream_tokens) for _ in range(2))
        )
        await asyncio.sleep(0.3)
        while album and not (shared and texts.done()):
            reply = await course.ask(about(album.pop(), DESCRIBE))
            # A picture that was answered after the texts had the machine to itself.
            if not (shared and texts.done()):
                shared.append(reply.first)
        firsts += shared
        gaps += [gap for reply in await texts for gap in reply.gaps]
    return {
        "streams.p50": percentile(gaps, 0.5) * 1000,
        "streams.p99": percentile(gaps, 0.99) * 1000,
        "streams.longest": max(gaps) * 1000,
        "streams.still": sum(gap for gap in gaps if gap > STILL_SECONDS) / sum(gaps),
        "streams.first": median(firsts),
    }


async def sixteen_clients(course: Course) -> Values:
    """Sixteen clients with texts of their own, twice as many as there are slots."""
    each = course.times(3)
    began = time.perf_counter()

    async def client() -> int:
        return sum([(await course.ask(course.story())).tokens for _ in range(each)])

    made = sum(await asyncio.gather(*(client() for _ in range(16))))
    return {"sixteen_clients.rate": made / (time.perf_counter() - began)}


SCENARIOS: dict[str, Callable[[Course], Awaitable[Values]]] = {
    scenario.__name__: scenario
    for scenario in (
        start,
        new_picture,
        one_stream,
        sampled_stream,
        extraction,
        connections,
        six_clients,
        same_picture,
        eight_questions,
        conversation,
        streams,
        sixteen_clients,
    )
}
