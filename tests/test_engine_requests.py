"""What becomes of requests when engines are lost, or when their readers stop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from fakes import engine_ready
from hypothesis import given
from hypothesis import strategies as st

from server.deadline import deadline
from server.engine_client.client import EngineClient
from server.engine_client.requests import (
    FEW_UNREAD,
    HELD_UP_SECONDS,
    ISOLATED,
    MOST_ALONE,
    MOST_UNREAD,
    PASS_TOKENS,
    STOPPED_SECONDS,
    SUSPECT,
    Requests,
    Running,
)
from server.engine_client.supervisor import EngineSupervisor
from server.errors import DeadlineExceeded, EngineUnavailable, RequestError
from server.messages import (
    AbortRequest,
    AddRequest,
    Admitted,
    CountRequest,
    FinishReason,
    Rejected,
    RequestTimings,
    TokenOutput,
)
from server.messages.sampling import SamplingParams


def request(name: str) -> AddRequest:
    return AddRequest(name, ("prompt",), SamplingParams(), 0.0)


def items(running: Running) -> list[Any]:
    return [running.items.get_nowait() for _ in range(running.items.qsize())]


class Engines:
    """One engine after another; ``got`` is what the present one was sent."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.got: list[Any] = []

    def start(self) -> None:
        self.got = []
        self.requests.connect(self.got.append)

    def restart(self) -> None:
        self.requests.disconnect()
        self.start()

    @property
    def ids(self) -> list[str]:
        return [message.request_id for message in self.got]


def test_the_next_engine_goes_on_where_the_lost_one_was() -> None:
    engines = Engines()
    engines.start()
    running = engines.requests.open(request("a"))
    asked = engines.requests.open(CountRequest("c", ("prompt",)))
    engines.requests.take(Admitted("a", 3, 0))
    first = RequestTimings(1.0, 2.0, 3.0)
    engines.requests.take(TokenOutput("a", "x", 1, token=7, timings=first))
    engines.requests.take(TokenOutput("a", "", 2, token=8))
    said = items(running)
    engines.restart()
    again, count = engines.got
    assert (again.resumed, again.parts, again.arrival) == ((7, 8), ("prompt",), 0.0)
    assert count is asked.message
    engines.requests.take(Admitted("a", 3, 0))
    last = RequestTimings(11.0, 12.0, 0.0, 14.0)
    engines.requests.take(TokenOutput("a", "y", 3, FinishReason.STOP, token=9, timings=last))
    (end,) = items(running)
    assert (len(said), end.text) == (3, "y")
    assert end.timings == RequestTimings(1.0, 2.0, 3.0, 14.0), "as its client knows it"


def test_who_comes_between_two_engines_waits_and_keeps_its_place() -> None:
    engines = Engines()
    engines.start()
    engines.requests.open(request("a"))
    engines.requests.disconnect()
    engines.requests.open(request("b"))
    gone = engines.requests.open(request("c"))
    engines.requests.close(gone, abort=True)
    engines.start()
    assert engines.ids == ["a", "b"], "who has left is not sent at all"
    assert not any(isinstance(message, AbortRequest) for message in engines.got)


def test_one_request_alone_with_two_lost_engines_is_given_up() -> None:
    engines = Engines()
    engines.start()
    running = engines.requests.open(request("a"))
    engines.restart()
    assert not items(running)
    engines.requests.disconnect()
    (error,) = items(running)
    assert isinstance(error, EngineUnavailable)


def test_suspects_are_tried_one_at_a_time_and_only_the_culprit_is_given_up() -> None:
    engines = Engines()
    engines.start()
    running = {name: engines.requests.open(request(name)) for name in "abc"}
    engines.restart()
    assert engines.ids == ["a", "b", "c"]
    engines.restart()
    assert engines.ids == ["a"], "the first of three suspects"
    fresh = engines.requests.open(request("d"))
    assert engines.ids == ["a", "d"], "others go beside it"
    engines.requests.close(running["a"], abort=False)
    assert engines.ids == ["a", "d", "b"], "it was not the first: the second"
    engines.restart()
    assert engines.ids == ["b"], "it was in three losses, and is tried alone"
    late = engines.requests.open(request("e"))
    engines.restart()
    assert engines.ids == ["b"], "alone in one loss is not enough"
    engines.requests.disconnect()
    others = running["c"], fresh, late
    assert [len(items(one)) for one in (running["b"], *others)] == [1, 0, 0, 0]
    engines.requests.close(running["b"], abort=True)
    engines.start()
    assert engines.ids == ["c", "d", "e"]


def isolated(engines: Engines) -> Running:
    """A request that was in as many losses as there may be before it is tried alone."""
    engines.start()
    running = engines.requests.open(request("a"))
    for number in range(ISOLATED):
        engines.requests.open(request(f"beside {number}"))
        engines.restart()
    assert engines.ids == ["a"]
    assert (running.losses, running.all_alone) == (ISOLATED, 0)
    return running


def test_who_is_tried_alone_lets_the_others_in_when_it_comes_further() -> None:
    engines = Engines()
    running = isolated(engines)
    say(engines, "a", *range(PASS_TOKENS - 1))
    assert engines.ids == ["a"]
    say(engines, "a", PASS_TOKENS - 1)
    assert engines.ids == ["a", "beside 2"], "the others are suspects, too"
    engines.restart()
    assert engines.ids == ["a"]
    say(engines, "a", *range(2 * PASS_TOKENS - 1))
    assert engines.ids == ["a"], "further than last time"
    assert not any(isinstance(item, EngineUnavailable) for item in items(running))


@pytest.mark.parametrize("leave", ["close", "stop reading", "end"])
def test_who_is_tried_alone_and_leaves_lets_the_others_in(leave: str) -> None:
    engines = Engines()
    running = isolated(engines)
    if leave == "close":
        engines.requests.close(running, abort=True)
    elif leave == "end":
        say(engines, "a", 0, reason=FinishReason.STOP)
    else:
        say(engines, "a", *range(FEW_UNREAD - 2))
        assert len(engines.got) == 1
        running.read -= 2 * STOPPED_SECONDS
        for _ in range(4):
            running.items.put_nowait(Admitted("a", 1, 0))
        say(engines, "a", 1)
        assert running.paused
    assert "beside 0" in engines.ids[1:]


def test_a_request_that_comes_further_between_two_losses_is_not_given_up() -> None:
    engines = Engines()
    engines.start()
    running = engines.requests.open(request("a"))
    for token in range(MOST_ALONE - 1):
        engines.restart()
        say(engines, "a", token)
    assert not any(isinstance(item, EngineUnavailable) for item in items(running))
    engines.restart()
    (error,) = items(running)
    assert isinstance(error, EngineUnavailable), "though it comes further each time"


@given(st.lists(st.sampled_from(["open", "token", "end", "leave", "kill"]), max_size=60), st.data())
def test_whoever_is_given_up_was_alone_in_two_losses(steps: list[str], data: st.DataObject) -> None:
    """Engines are killed from outside, whatever they are at."""
    engines = Engines()
    engines.start()
    running: dict[str, Running] = {}
    in_engine: set[str] = set()
    alone: Counter[str] = Counter()
    for number, step in enumerate(steps):
        if step == "open":
            running[f"r{number}"] = engines.requests.open(request(f"r{number}"))
        elif step == "kill":
            had = [name for name in in_engine if name in running]
            alone.update(had if len(had) == 1 else [])
            engines.restart()
            in_engine.clear()
        elif names := sorted(in_engine & running.keys()):
            name = data.draw(st.sampled_from(names))
            if step == "leave":
                engines.requests.close(running.pop(name), abort=True)
            elif step == "end":
                say(engines, name, number, reason=FinishReason.STOP)
                engines.requests.close(running.pop(name), abort=False)
            else:
                say(engines, name, number)
        in_engine.update(message.request_id for message in engines.got if name_of(message))
        engines.got.clear()
        for name, one in list(running.items()):
            if any(isinstance(item, EngineUnavailable) for item in items(one)):
                assert alone[name] >= 2, f"{name} was alone in {alone[name]} losses"
                engines.requests.close(running.pop(name), abort=True)
        waiting = [name for name in running if name not in in_engine]
        assert not waiting or in_engine & running.keys(), "somebody waits for an idle engine"


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_a_request_that_kills_every_engine_is_found(
    before: int, after: int, fresh_each_time: int
) -> None:
    engines = Engines()
    engines.start()
    beside = [engines.requests.open(request(f"before {number}")) for number in range(before)]
    culprit = engines.requests.open(request("culprit"))
    beside += [engines.requests.open(request(f"after {number}")) for number in range(after)]
    for number in range(4 * (before + after + fresh_each_time) + 20):
        if "culprit" in engines.ids:
            beside += [
                engines.requests.open(request(f"{number}.{other}"))
                for other in range(fresh_each_time)
            ]
            engines.restart()
        else:  # the others end sooner or later
            ending = next(one for one in beside if one.sent)
            beside.remove(ending)
            engines.requests.close(ending, abort=False)
        if culprit.ended:
            break
    (error,) = items(culprit)
    assert isinstance(error, EngineUnavailable)
    assert not any(items(one) for one in beside), "and nothing else is given up"


def name_of(message: Any) -> bool:
    """Whether a message hands a request over."""
    return not isinstance(message, AbortRequest)


def say(engines: Engines, name: str, *tokens: int, reason: FinishReason | None = None) -> None:
    for token in tokens:
        last = reason if token == tokens[-1] else None
        engines.requests.take(TokenOutput(name, str(token), token + 1, last, token=token))


def stopped(engines: Engines) -> Running:
    """A request whose reader has read nothing of what would fill its buffer."""
    engines.start()
    running = engines.requests.open(request("a"))
    engines.requests.take(Admitted("a", 3, 0))
    say(engines, "a", *range(MOST_UNREAD - 1))
    running.read -= 2 * HELD_UP_SECONDS
    say(engines, "a", MOST_UNREAD - 1)
    return running


def test_a_reader_that_stops_is_taken_out_of_the_engine_until_it_reads_on() -> None:
    engines = Engines()
    running = stopped(engines)
    assert [type(message) for message in engines.got] == [AddRequest, AbortRequest]
    assert engines.requests.pauses == 1
    assert not running.read_on
    say(engines, "a", MOST_UNREAD)
    assert len(items(running)) == MOST_UNREAD + 2, "what was on its way counts"
    assert running.read_on
    engines.requests.go_on(running)
    again = engines.got[-1]
    assert again.resumed == tuple(range(MOST_UNREAD + 1))
    assert again.request_id != "a", "the engine is aborting that one"
    say(engines, "a", 7)
    engines.requests.take(Admitted(again.request_id, 3, 0))
    assert items(running) == []
    say(engines, again.request_id, MOST_UNREAD + 1, reason=FinishReason.STOP)
    assert [item.token for item in items(running)] == [MOST_UNREAD + 1]
    engines.requests.close(running, abort=False)
    assert len(engines.requests) == 0


def test_a_reader_that_stopped_is_nobody_who_lost_an_engine() -> None:
    engines = Engines()
    running = stopped(engines)
    engines.restart()
    assert engines.got == []
    assert running.losses == 0
    items(running)
    engines.requests.go_on(running)
    assert len(engines.got[0].resumed) == MOST_UNREAD
    engines.requests.close(running, abort=True)
    assert engines.got[1] == AbortRequest(engines.got[0].request_id)


def test_who_reads_slowly_or_is_at_the_end_is_left_in_the_engine() -> None:
    engines = Engines()
    engines.start()
    running = engines.requests.open(request("a"))
    say(engines, "a", *range(FEW_UNREAD))
    assert len(engines.got) == 1, "nothing is read for long, but there is not much to read"
    running.read -= STOPPED_SECONDS / 2
    say(engines, "a", *range(MOST_UNREAD - FEW_UNREAD - 1))
    assert len(engines.got) == 1, "there is much, but only for a moment"
    running.read -= STOPPED_SECONDS
    say(engines, "a", 1, reason=FinishReason.LENGTH)
    assert len(engines.got) == 1, "it is over"


def test_outputs_that_come_together_are_no_sign_of_a_reader_that_stopped() -> None:
    """This process was held up for a while, and then the line had all of it."""
    engines = Engines()
    engines.start()
    running = engines.requests.open(request("a"))
    running.read -= 10 * STOPPED_SECONDS
    say(engines, "a", *range(2 * MOST_UNREAD))
    assert len(engines.got) == 1


def test_what_is_over_is_sent_to_no_other_engine_however_late_it_is_read() -> None:
    engines = Engines()
    engines.start()
    over = engines.requests.open(request("a"))
    say(engines, "a", 0, 1, reason=FinishReason.STOP)
    engines.restart()
    assert over.losses == 0
    assert engines.got == []
    engines.requests.open(request("b"))
    for _ in range(SUSPECT):
        engines.restart()
    assert engines.ids == [], "it was given up, though nobody has read that yet"


def test_a_suspect_that_is_over_lets_the_next_one_go_before_it_is_read() -> None:
    engines = Engines()
    engines.start()
    for name in "ab":
        engines.requests.open(request(name))
    for _ in range(SUSPECT):
        engines.restart()
    assert engines.ids == ["a"]
    say(engines, "a", 0, reason=FinishReason.STOP)
    assert engines.ids == ["a", "b"]


def test_rejections_reach_who_asked_and_the_rest_nobody() -> None:
    engines = Engines()
    engines.start()
    running = engines.requests.open(request("a"))
    engines.requests.take(TokenOutput("other", "x", 1))
    engines.requests.take(Rejected("a", RequestError("no")))
    (error,) = items(running)
    assert isinstance(error, RequestError)


class Process:
    """An engine process that says nothing."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def stop(self, patience: float) -> int:
        return 0


def client_of(process: Process, max_tokens: int | None = None) -> EngineClient:
    requests = Requests()
    supervisor = EngineSupervisor(requests)
    supervisor._become_ready(process, engine_ready())  # type: ignore[arg-type]
    return EngineClient(supervisor, requests, max_tokens)


def generate(client: EngineClient, **sampling: Any) -> Any:
    return anext(client.generate(("prompt",), SamplingParams(**sampling), "r"))


def test_a_request_past_its_deadline_is_ended_here_and_in_the_engine() -> None:
    process = Process()

    async def ask() -> None:
        deadline.set(time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await generate(client_of(process))
        with pytest.raises(DeadlineExceeded):
            await client_of(process).count(("prompt",))

    asyncio.run(ask())
    assert isinstance(process.sent[1], AbortRequest)


def test_the_most_tokens_are_a_default_and_a_bound() -> None:
    process = Process()
    client = client_of(process, max_tokens=5)

    async def ask() -> None:
        with pytest.raises(RequestError) as refused:
            await generate(client, max_tokens=6)
        assert refused.value.param == "max_tokens"
        for asked in (None, 5):
            waiting = asyncio.ensure_future(generate(client, max_tokens=asked))
            await asyncio.sleep(0)
            waiting.cancel()

    asyncio.run(ask())
    sent = [message for message in process.sent if isinstance(message, AddRequest)]
    assert [message.sampling.max_tokens for message in sent] == [5, 5]
