"""Requests that are slow to begin hold nobody up, and are not begun for nobody."""

from __future__ import annotations

import queue
import threading

from server.engine.grammar_thread import GrammarThread
from server.messages import AbortRequest, AddRequest
from server.messages.sampling import Grammar, GrammarKind, SamplingParams

SLOW = SamplingParams(grammar=Grammar(GrammarKind.LARK, 'start: "a"', "grammar"))


def add(name: str, sampling: SamplingParams = SLOW) -> AddRequest:
    return AddRequest(name, ("x",), sampling, 0.0)


class Bench:
    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        self.delivered: queue.Queue[str] = queue.Queue()
        self.grammar_thread = GrammarThread(
            self.compile_ahead, lambda m: self.delivered.put(m.request_id)
        )

    def compile_ahead(self, sampling: SamplingParams) -> None:
        self.began.set()
        assert self.go.wait(10)
        if sampling.seed == 13:
            raise ValueError("it breaks")


def test_only_slow_requests_are_held() -> None:
    bench = Bench()
    assert not bench.grammar_thread.takes(add("fast", SamplingParams()))
    assert not bench.grammar_thread.takes(AbortRequest("fast"))
    assert not bench.grammar_thread.takes("anything else")
    assert bench.grammar_thread.takes(add("slow"))
    assert bench.grammar_thread.takes(add("dry", SamplingParams(dry_multiplier=1.0)))
    bench.go.set()
    assert [bench.delivered.get(timeout=10) for _ in range(2)] == ["slow", "dry"]
    assert not bench.grammar_thread.takes(AbortRequest("slow")), "the engine has it"


def test_an_aborted_one_is_never_delivered() -> None:
    bench = Bench()
    assert bench.grammar_thread.takes(add("in work"))
    assert bench.grammar_thread.takes(add("queued"))
    assert bench.grammar_thread.takes(add("last"))
    assert bench.began.wait(10)
    assert bench.grammar_thread.takes(AbortRequest("in work"))
    assert bench.grammar_thread.takes(AbortRequest("queued"))
    bench.go.set()
    assert bench.delivered.get(timeout=10) == "last"
    assert bench.delivered.empty()


def test_what_cannot_be_foreseen_is_delivered_all_the_same() -> None:
    bench = Bench()
    bench.go.set()
    broken = SamplingParams(grammar=SLOW.grammar, seed=13)
    assert bench.grammar_thread.takes(add("broken", broken))
    assert bench.delivered.get(timeout=10) == "broken"
