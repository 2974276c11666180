"""Requests that are slow to begin hold nobody up, and are not begun for nobody."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from server.engine.client_time import ClientTime
from server.engine.grammar_thread import GrammarThread
from server.engine.loop import Inbox
from server.messages import AbortRequest, AddRequest, StepOutputs
from server.messages.sampling import Grammar, GrammarKind, SamplingParams
from server.usage import Account

SLOW = SamplingParams(grammar=Grammar(GrammarKind.LARK, 'start: "a"', "grammar"))


def add(name: str, sampling: SamplingParams = SLOW) -> AddRequest:
    return AddRequest(name, ("x",), sampling, 0.0)


class Bench:
    """An inbox with a grammar thread that compiles once ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        self.work: Callable[[], object] = lambda: None
        self.sent: queue.Queue[Any] = queue.Queue()
        self.reports: list[StepOutputs] = []
        line: Any = self
        self.inbox = Inbox(line)
        self.grammar_thread = GrammarThread(
            self.compile_ahead, self.inbox.put, ClientTime(self.reports.append)
        )
        self.inbox.grammar_thread = self.grammar_thread

    def recv(self) -> Any:
        return self.sent.get()

    def send(self, *messages: object) -> None:
        for message in messages:
            self.sent.put(message)

    def delivered(self, count: int) -> list[Any]:
        """The next messages: requests by name."""
        found: list[Any] = []
        while len(found) < count:
            found += self.inbox.take(wait=True)
        return [m.request_id if isinstance(m, AddRequest) else m for m in found]

    def compile_ahead(self, sampling: SamplingParams) -> None:
        self.began.set()
        assert self.go.wait(10)
        self.work()
        if sampling.seed == 13:
            raise ValueError("it breaks")


def test_only_slow_requests_are_held() -> None:
    bench = Bench()
    bench.send(add("slow"), add("dry", SamplingParams(dry_multiplier=1.0)))
    bench.send(add("fast", SamplingParams()), AbortRequest("fast"), "anything else")
    assert bench.delivered(3) == ["fast", AbortRequest("fast"), "anything else"]
    bench.go.set()
    assert bench.delivered(2) == ["slow", "dry"]
    bench.send(AbortRequest("slow"))
    assert bench.delivered(1) == [AbortRequest("slow")], "the engine has it"


def test_an_aborted_one_is_never_delivered() -> None:
    bench = Bench()
    bench.send(add("in work"), add("queued"), add("last"))
    assert bench.began.wait(10)
    bench.send(AbortRequest("in work"), AbortRequest("queued"), "all is read")
    assert bench.delivered(1) == ["all is read"], "nobody else needs the aborts"
    bench.go.set()
    assert bench.delivered(1) == ["last"]
    assert bench.inbox.empty


def test_what_cannot_be_foreseen_is_delivered_all_the_same() -> None:
    bench = Bench()
    bench.go.set()
    bench.send(add("broken", SamplingParams(grammar=SLOW.grammar, seed=13)))
    assert bench.delivered(1) == ["broken"]


def test_a_client_with_many_grammars_waits_behind_one_with_a_grammar() -> None:
    bench = Bench()
    hog, honest = Account("hog", 3.0), Account("honest")
    bench.send(replace(add("in work"), account=hog))
    assert bench.began.wait(10)
    bench.send(*(replace(add(f"hog {number}"), account=hog) for number in range(30)))
    bench.send(replace(add("honest 1"), account=honest), replace(add("honest 2"), account=honest))
    bench.send("all is read")
    assert bench.delivered(1) == ["all is read"]
    bench.go.set()
    assert bench.delivered(4)[:4] == ["in work", "honest 1", "honest 2", "hog 0"]


def test_what_a_grammar_took_is_reported() -> None:
    bench = Bench()
    bench.go.set()
    bench.work = lambda: sum(range(3_000_000))
    bench.send(replace(add("dear"), account=Account("hog")))
    assert bench.delivered(1) == ["dear"]
    (report,) = bench.reports
    assert report.taken is not None
    assert report.taken.client == "hog"
    assert report.taken.seconds >= 0.02


def test_a_request_is_dropped_once() -> None:
    bench = Bench()
    bench.grammar_thread.hold(add("slow"))
    assert bench.grammar_thread.drop("slow")
    assert not bench.grammar_thread.drop("slow")
    bench.go.set()
