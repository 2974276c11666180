"""Who decodes next."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import usage as usage_module
from server.fair_queue import Place, Places
from server.usage import HALF_LIFE, Usage


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_half_of_what_a_client_took_is_forgotten_in_a_minute() -> None:
    clock = Clock()
    usage = Usage(clock)
    usage.charge("a", 8.0)
    clock.now += HALF_LIFE
    usage.charge("a", 1.0)
    assert usage.of("a") == pytest.approx(5.0)
    clock.now += 2 * HALF_LIFE
    assert usage.of("a") == pytest.approx(1.25)
    assert usage.of("b") == 0


def test_accounts_are_bounded_and_those_who_took_much_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_module, "_MOST_CLIENTS", 10)
    usage = Usage(Clock())
    usage.charge("hog", 100.0)
    for number in range(100):
        usage.charge(str(number), 0.01)
        assert len(usage._clients) <= 10
    assert usage.of("hog") == 100.0


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_client_who_took_more_waits_behind_those_who_took_less() -> None:
    async def go() -> None:
        clock = Clock()
        usage = Usage(clock)
        ours = Places(1, 1, usage, clock)
        usage.charge("hog", 30.0)
        held = await ours.take("hog")
        order: list[str] = []

        async def want(client: str) -> None:
            place = await ours.take(client)
            order.append(client)
            ours.release(place)

        tasks = []
        for client in ("hog", "hog", "b", "hog", "c", "b"):
            tasks.append(asyncio.ensure_future(want(client)))
            await settle()
        ours.release(held)
        await asyncio.gather(*tasks)
        assert order == ["b", "c", "b", "hog", "hog", "hog"]
        # A few minutes later all is forgotten, and who came first is first.
        clock.now += 30 * HALF_LIFE
        order.clear()
        held = await ours.take("d")
        tasks = []
        for client in ("hog", "b"):
            tasks.append(asyncio.ensure_future(want(client)))
            await settle()
        ours.release(held)
        await asyncio.gather(*tasks)
        assert order[-1] == "b" or usage.of("hog") > usage.of("b")

    run(go())


def test_places_of_one_client_are_granted_in_the_order_of_their_arrival() -> None:
    async def go() -> None:
        clock = Clock()

        def goes_on() -> float:
            clock.now += 0.001
            return clock.now

        usage = Usage(goes_on)
        usage.charge("hog", 30.0)
        ours = Places(1, 1, usage, goes_on)
        held = await ours.take("hog")
        order: list[int] = []

        async def want(number: int) -> None:
            place = await ours.take("hog")
            order.append(number)
            ours.release(place)

        tasks = []
        for number in range(10):
            tasks.append(asyncio.ensure_future(want(number)))
            await settle()
        ours.release(held)
        await asyncio.gather(*tasks)
        assert order == list(range(10))

    run(go())


def test_a_client_never_has_all_places_where_that_is_bounded() -> None:
    async def go() -> None:
        ours = Places(3, 0, Usage(Clock()), Clock(), most_of_one=2)
        first, _ = await ours.take("hog"), await ours.take("hog")
        third = asyncio.ensure_future(ours.take("hog"))
        await settle()
        assert not third.done()
        await ours.take("new")
        ours.release(first)
        await settle()
        assert third.done()

    run(go())


def test_what_runs_counts_before_it_is_charged() -> None:
    async def go() -> None:
        clock = Clock()
        ours = Places(2, 1, Usage(clock), clock)
        first, _ = await ours.take("hog"), await ours.take("hog")
        clock.now += 5
        waiting = {}
        for client in ("hog", "new"):
            waiting[client] = asyncio.ensure_future(ours.take(client))
            await settle()
        ours.release(first)
        await settle()
        assert (waiting["new"].done(), waiting["hog"].done()) == (True, False)
        waiting["hog"].cancel()

    run(go())


def test_what_takes_long_moves_to_the_slow_lane_as_far_as_there_is_room() -> None:
    async def go() -> None:
        ours = Places(1, 1, Usage(Clock()), Clock())
        first = await ours.take("a")
        second = asyncio.ensure_future(ours.take("b"))
        await settle()
        assert ours.crowded
        assert ours.slow_down(first)
        place = await second
        assert not ours.slow_down(place)
        slow = asyncio.ensure_future(ours.take("c", slow=True))
        await settle()
        assert not slow.done()
        assert ours.waiting == 1
        ours.release(first)
        assert (await slow).slow

    run(go())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("tlsc")), max_size=60))
def test_no_lane_is_ever_overfull_and_no_place_is_lost(steps: list[tuple[str, str]]) -> None:
    async def go() -> None:
        ours = Places(2, 1, Usage(Clock()), Clock())
        held: list[Place] = []
        tasks: list[asyncio.Task[Place]] = []
        for client, what in steps:
            if what == "t":
                tasks.append(asyncio.ensure_future(ours.take(client)))
            elif what == "c" and tasks:
                tasks.pop(0).cancel()
            elif what == "l" and held:
                ours.release(held.pop(0))
            elif what == "s" and held:
                ours.slow_down(held[0])
            await settle()
            held += [task.result() for task in tasks if task.done() and not task.cancelled()]
            tasks = [task for task in tasks if not task.done()]
            assert sum(not place.slow for place in held) <= 2
            assert sum(place.slow for place in held) <= 1
            assert not tasks or sum(not place.slow for place in held) == 2
        for place in held:
            ours.release(place)
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(go())
