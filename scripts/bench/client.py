"""One client for all servers: OpenAI's chat completions, streamed, every token's time noted."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

Message = dict[str, Any]
TIMEOUT = httpx.Timeout(300.0)
# Pieces closer than this were not computed one after the other: they waited somewhere together.
BUNCHED_SECONDS = 0.0002


class BenchError(Exception):
    """A server or a file is not as the measurement needs it."""


@dataclass(slots=True)
class Reply:
    """What came back, and when, in seconds of the monotonic clock."""

    began: float
    wanted: int
    times: list[float] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    ended: float = 0.0
    counted: int | None = None

    @property
    def first(self) -> float:
        """Seconds to the first text, or to the end of a reply without any."""
        return (self.times[0] if self.times else self.ended) - self.began

    @property
    def tokens(self) -> int:
        """Tokens that the server says it made; pieces of text where it does not say."""
        return len(self.times) if self.counted is None else self.counted

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        spent = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return (self.tokens - 1) / spent if spent > 0 else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece of text and the next."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    @property
    def bunched(self) -> int:
        """How many pieces came together with the one before."""
        return sum(gap < BUNCHED_SECONDS for gap in self.gaps)

    @property
    def bursts(self) -> int:
        """In how many bursts the pieces came."""
        return len(self.times) - self.bunched

    def take(self, event: dict[str, Any], now: float) -> None:
        """Note what one event of the stream tells."""
        if "error" in event:
            raise BenchError(f"the server answered with an error: {event['error']}")
        usage = event.get("usage")
        if usage:
            self.counted = int(usage["completion_tokens"])
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content")
            if piece:
                self.text += piece
                self.times.append(now)
            self.finish = choice.get("finish_reason") or self.finish


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent stream, up to its [DONE]."""
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        yield json.loads(data)


class ChatClient:
    """Asks one server."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._transport = transport
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT, limits=limits, transport=transport, trust_env=False
        )
        self.model = ""
        self.replies: list[Reply] = []

    async def open(self) -> None:
        """Learn the model's name."""
        found = await self._http.get("/v1/models")
        found.raise_for_status()
        self.model = str(found.json()["data"][0]["id"])

    async def close(self) -> None:
        """Leave the server."""
        await self._http.aclose()

    async def text(self, path: str) -> str:
        """A page as text; empty where there is none."""
        page = await self._http.get(path)
        return page.text if page.status_code == 200 else ""

    async def ask_anew(self, messages: list[Message], max_tokens: int) -> Reply:
        """The same as ``ask`` over a connection of its own, whose making counts."""
        other = ChatClient(str(self._http.base_url), self._transport)
        other.model = self.model
        try:
            reply = await other.ask(messages, max_tokens)
        finally:
            await other.close()
        self.replies.append(reply)
        return reply

    async def ask(self, messages: list[Message], max_tokens: int, **fields: Any) -> Reply:
        """The greedy reply; the clock starts when the request is handed over.

        ``fields`` are further fields of the body, or others in the place of these.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            # Our tower's rows differ from the others' (docs/llava-fidelity.md), and so would the
            # lengths of the replies: all go on to their last permitted token.
            "ignore_eos": True,
            **fields,
        }
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        reply = Reply(began=time.perf_counter(), wanted=max_tokens)
        async with self._http.stream(
            "POST", "/v1/chat/completions", content=content, headers=headers
        ) as response:
            if response.status_code != 200:
                problem = (await response.aread()).decode(errors="replace")
                raise BenchError(f"status {response.status_code}: {problem[:500]}")
            async for event in events(response.aiter_lines()):
                reply.take(event, time.perf_counter())
        reply.ended = time.perf_counter()
        self.replies.append(reply)
        return reply
