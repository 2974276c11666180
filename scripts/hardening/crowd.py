"""Crowds of clients: those who ask, those who are idle, and those who are slow on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
CHAT = "/v1/chat/completions"
Slow = Callable[[str, int], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Answers:
    """Statuses counted, 0 for a broken connection, and how long each answer took, in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        """One answer."""
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(seconds)

    def percentile(self, status: int, percent: float) -> float:
        """Of the seconds of one status; 0 where there was none."""
        taken = sorted(self.seconds.get(status, ()))
        return taken[min(len(taken) - 1, int(len(taken) * percent / 100))] if taken else 0.0


def request(body: dict[str, object]) -> bytes:
    """A chat completion as bytes."""
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return head.encode() + f"content-length: {len(content)}\r\n\r\n".encode() + content


def question(number: int, tokens: int) -> bytes:
    """A request whose text is no other's."""
    message = {"role": "user", "content": f"Say something about {number}."}
    return request({"messages": [message], "max_tokens": tokens, "temperature": 0})


async def exchange(line: Connection, asked: bytes) -> tuple[int, float]:
    """One request and its answer: the status, and the seconds after which to come back."""
    reader, writer = line
    writer.write(asked)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length, after = 0, 0.0
    for row in head.split("\r\n")[1:]:
        name, _, value = row.partition(":")
        if name == "content-length":
            length = int(value)
        elif name == "retry-after":
            after = float(value)
    await reader.readexactly(length)
    return int(head.split(" ", 2)[1]), after


async def client(
    host: str, port: int, number: int, until: float, answers: Answers, *, polite: bool
) -> None:
    """Asks again and again; a polite one waits as long as a refusal says."""
    chance = Random(number)
    # Nobody starts five hundred clients in one instant.
    await asyncio.sleep(chance.random() if number else 0)
    while time.monotonic() < until:
        with suppress(OSError, asyncio.IncompleteReadError):
            async with connected(host, port) as line:
                while time.monotonic() < until:
                    start, status, after = time.monotonic(), 0, 1.0
                    try:
                        status, after = await exchange(line, question(chance.randrange(10**6), 16))
                    finally:
                        answers.add(status, time.monotonic() - start)
                    if status != 200 and polite:
                        await asyncio.sleep(after * (0.5 + chance.random()))


async def crowd(host: str, port: int, count: int, seconds: float, *, polite: bool) -> Answers:
    """``count`` clients at once for so many seconds."""
    answers, until = Answers(), time.monotonic() + seconds
    every = (client(host, port, number, until, answers, polite=polite) for number in range(count))
    await asyncio.gather(*every)
    return answers


@asynccontextmanager
async def connected(host: str, port: int, receive_buffer: int = 0) -> AsyncIterator[Connection]:
    """A connection that is closed however the block ends."""
    line = socket.socket()
    line.setblocking(False)
    if receive_buffer:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(line, (host, port))
        reader, writer = await asyncio.open_connection(sock=line)
    except BaseException:
        line.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def stopped_reader(host: str, port: int) -> None:
    """Asks for a stream and reads none of it."""
    async with connected(host, port, 4096) as (_, writer):
        body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "ignore_eos": True}
        writer.write(request({**body, "max_tokens": 2000}))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3600)


async def slowloris(host: str, port: int) -> None:
    """A head that never ends, a letter a second."""
    async with connected(host, port) as (_, writer):
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-".encode())
        while not writer.is_closing():
            await asyncio.sleep(1)
            writer.write(b"a")


async def half_body(host: str, port: int) -> None:
    """A body of which half comes."""
    async with connected(host, port) as (reader, writer):
        asked = question(1, 16)
        writer.write(asked[: len(asked) - 30])
        await reader.read()


async def huge_body(host: str, port: int) -> None:
    """Two gigabytes, as fast as they go."""
    length = 2 * 1024**3
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
    async with connected(host, port) as (_, writer):
        writer.write(head.encode())
        for _number in range(length // 65536):
            writer.write(b" " * 65536)
            await writer.drain()


SLOW: dict[str, Slow] = {
    "readers that stop": stopped_reader,
    "slowloris": slowloris,
    "half bodies": half_body,
    "bodies of 2 GiB": huge_body,
}


async def beset(host: str, port: int, work: Slow, count: int, seconds: float) -> Answers:
    """One honest client, for so many seconds, among ``count`` others who begin again and again."""

    async def again() -> None:
        while True:
            with suppress(OSError):
                await work(host, port)
            await asyncio.sleep(0.1)

    others = [asyncio.ensure_future(again()) for _ in range(count)]
    await asyncio.sleep(1)
    answers = await crowd(host, port, 1, seconds, polite=True)
    for other in others:
        other.cancel()
    await asyncio.wait(others, timeout=10)
    return answers


@asynccontextmanager
async def idle(host: str, port: int, count: int) -> AsyncIterator[int]:
    """Connections that say nothing; tells how many, where the system has fewer than asked for."""
    async with AsyncExitStack() as stack:
        made = 0
        with suppress(OSError):
            for _ in range(count):
                await stack.enter_async_context(connected(host, port))
                made += 1
        yield made
