"""The line from the engine: messages however the kernel cuts them, and a step's small talk."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine import core as step_stats
from server.engine.core import StatsClock
from server.engine.loop import Outbox
from server.engine_client.process import Frames, LineReader
from server.messages import StepOutputs, TokenOutput

MESSAGES = st.lists(st.one_of(st.text(), st.binary(max_size=300), st.none(), st.integers()))


def written(messages: Sequence[object]) -> bytes:
    """What the engine's end puts into the line."""
    ours, theirs = Pipe()
    outbox, data = Outbox(theirs), b""
    for message in messages:
        outbox.send(message)
        with open(ours.fileno(), "rb", buffering=0, closefd=False) as line:
            data += line.read(1 << 20)
    return data


@settings(max_examples=50)
@given(MESSAGES, st.lists(st.integers(1, 50)))
def test_messages_arrive_whole_however_they_are_cut(messages: list[Any], sizes: list[int]) -> None:
    data, frames, found = written(messages), Frames(), []
    for size in [*sizes, len(data) + 1]:
        found += frames.feed(data[:size])
        data = data[size:]
    assert found == messages


def test_a_message_of_more_than_two_gib_is_told_apart_by_its_mark() -> None:
    frames, body = Frames(), pickle.dumps("long")
    head = b"\xff\xff\xff\xff" + len(body).to_bytes(8, "big")
    assert list(frames.feed(head[:3])) == list(frames.feed(head[3:7])) == []
    assert list(frames.feed(head[7:] + body)) == ["long"]


def test_a_large_message_comes_in_pieces_and_the_end_is_told() -> None:
    ours, theirs = Pipe()
    outputs = StepOutputs((TokenOutput("a", "x" * 1_000_000, 1),), None, 0.5, 0.25)

    async def read() -> list[Any]:
        seen: list[Any] = []
        closed = asyncio.Event()

        def receive(message: Any) -> None:
            seen.append(message)
            if message is None:
                closed.set()

        LineReader(ours, receive).start(asyncio.get_running_loop())
        await asyncio.to_thread(Outbox(theirs).send, outputs)
        theirs.close()
        await asyncio.wait_for(closed.wait(), 10)
        return seen

    assert asyncio.run(read()) == [outputs, None]


def test_statistics_are_told_when_requests_change_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(step_stats.time, "monotonic", lambda: now)
    clock = StatsClock()
    assert clock.due(1, 0)
    assert not clock.due(1, 0)
    assert clock.due(1, 2)
    assert not clock.due(1, 2)
    now += 2 * step_stats.SECONDS_BETWEEN_STATS
    assert clock.due(1, 2)
    assert clock.due(0, 0)
    assert clock.due(0, 0), "one came and went within a step: nobody may come for hours"
