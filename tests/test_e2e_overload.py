"""More clients than there is room for, scaled down from ``python -m scripts.overload``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from live import LiveServer

from scripts.hardening.crowd import SLOW, beset, crowd, idle, stopped_reader
from scripts.hardening.watch import anonymous

FLAGS = ("--parallel", "2", "--max-queue", "4", "--client-timeout", "2", "--max-connections", "150")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("overload"), *FLAGS) as server:
        yield server
        assert "Traceback" not in server.log
        assert server.stop() == 0


def where(server: LiveServer) -> tuple[str, int]:
    parts = urlsplit(server.url)
    return str(parts.hostname), int(parts.port or 0)


def test_a_crowd_is_served_or_refused_and_then_it_is_over(server: LiveServer) -> None:
    pids = (server.process.pid, server.engine_pid())
    # The first crowd fills caches and the allocator; what the second one adds would be a leak.
    answers = asyncio.run(crowd(*where(server), 100, 2.0, polite=False))
    before = [anonymous(pid) for pid in pids]
    answers = asyncio.run(crowd(*where(server), 100, 2.0, polite=False))
    assert set(answers.statuses) == {200, 429}
    assert answers.percentile(429, 50) < 1.0, "refused, not kept waiting"
    after = [anonymous(pid) for pid in pids]
    assert all(late < early * 1.2 + 32 * 1024 for early, late in zip(before, after, strict=True))
    start = time.monotonic()
    alone = asyncio.run(crowd(*where(server), 1, 0.5, polite=True))
    assert set(alone.statuses) == {200}
    assert time.monotonic() - start < 10
    assert server.engine_pid() == pids[1]


@pytest.mark.parametrize("name", SLOW)
def test_an_honest_client_is_served_among_slow_and_greedy_ones(
    server: LiveServer, name: str
) -> None:
    # Readers that stop have asked for something, and have it generated until they are cut off.
    count = 1 if SLOW[name] is stopped_reader else 10
    answers = asyncio.run(beset(*where(server), SLOW[name], count, 1.0))
    assert set(answers.statuses) == {200}


def test_health_answers_among_idle_connections(server: LiveServer) -> None:
    async def among() -> list[float]:
        taken = []
        async with idle(*where(server), 600) as count, httpx.AsyncClient() as client:
            assert count == 600
            for _ in range(10):
                start = time.monotonic()
                assert (await client.get(f"{server.url}/health")).status_code == 200
                taken.append(time.monotonic() - start)
        return taken

    assert sorted(asyncio.run(among()))[5] < 1.0
