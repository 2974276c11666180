"""The loop sleeps only when every output is sent, whatever made it, and no request is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_fakes import add, make_core, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.core import EngineCore
from server.engine.loop import EngineLoop
from server.engine.request import Picture
from server.engine.vision.encode import EncodeDone, SlicedEncodes, encode_pictures
from server.messages import (
    AbortRequest,
    Embedded,
    EmbedRequest,
    Pooling,
    Rejected,
    Shutdown,
    StepOutputs,
    TokenOutput,
)


class Line:
    """What the web process receives."""

    def __init__(self) -> None:
        self.ended: set[str] = set()
        self.running: int | None = None

    def send(self, message: StepOutputs | list[StepOutputs]) -> None:
        for step in message if isinstance(message, list) else [message]:
            if step.stats is not None:
                self.running = step.stats.num_running
            for output in step.outputs:
                token = isinstance(output, TokenOutput)
                if isinstance(output, Embedded | Rejected) or (token and output.finish_reason):
                    self.ended.add(output.request_id)


class Inbox:
    """Delivers batches of messages; "later" ones only when the loop sleeps.

    Before it sleeps, all that can be answered must have been answered.
    """

    def __init__(self, batches: list[tuple[bool, list[Any]]], core: EngineCore, line: Line) -> None:
        self.batches = batches
        self.core = core
        self.line = line
        self.encoding: list[list[Picture]] = []
        self.runner: Any = None
        self.asked: set[str] = set()
        self.gone: set[str] = set()

    def put(self, message: object) -> None:
        raise AssertionError("no text here is long")

    @property
    def empty(self) -> bool:
        return not (self.batches and self.batches[0][0])

    def take(self, *, wait: bool) -> list[Any]:
        if wait:
            self.check()
            if self.encoding:
                return self.encoded()
            return self.note(self.batches.pop(0)[1]) if self.batches else [Shutdown()]
        return [] if self.empty else self.note(self.batches.pop(0)[1])

    def encoded(self) -> list[EncodeDone]:
        return list(encode_pictures(self.runner.encode, self.encoding.pop(0)))

    def note(self, messages: list[Any]) -> list[Any]:
        for message in messages:
            aborts = isinstance(message, AbortRequest)
            (self.gone if aborts else self.asked).add(message.request_id)
        return messages

    def check(self) -> None:
        assert not self.core.take_outputs(), "the loop sleeps on outputs"
        unanswered = self.asked - self.gone - self.line.ended
        if self.encoding:  # in a thread of its own, which wakes the loop
            assert all(self.core.scheduler.find(name) for name in unanswered)
            return
        assert not unanswered
        assert not self.core.scheduler.has_work
        assert not self.asked or self.line.running == 0, "the statistics say that it is busy"


class Cuts:
    """Interrupts an encode so many times before it begins to compute."""

    seconds_away = 0.0

    def __init__(self, count: int) -> None:
        self.count = count
        self.ended = False

    def run(self, work: Callable[[], Any], between: Callable[[], bool]) -> Any:
        self.ended = False
        for _ in range(self.count):
            self.ended = self.ended or not between()
        return work()


def serve(batches: list[tuple[bool, list[Any]]], cuts: int | None, interval: float) -> Line:
    """Runs the loop on the batches; encodes in slices with ``cuts``, else in a thread's stead."""
    core, runner = make_core(n_seq=3, n_cells=200, image_bytes=2000, slow_encodes=True)
    runner.broken_pictures.add("broken")
    line = Line()
    inbox = Inbox(batches, core, line)
    inbox.runner = runner
    slices = None
    if cuts is None:
        core._start_encode = inbox.encoding.append
    else:
        slices = SlicedEncodes(runner.encode, Cuts(cuts), 0.0)
        core._start_encode = slices.submit
    given: Any = inbox
    EngineLoop(core, given, line, slices, stream_interval=interval).serve()  # type: ignore[arg-type]
    inbox.check()
    return line


@st.composite
def conversations(draw: Any) -> list[tuple[bool, list[Any]]]:
    batches = []
    for number in range(draw(st.integers(1, 6))):
        name = str(number)
        image = picture(draw(st.sampled_from(["x", "y", "z", "broken"])))
        text = draw(st.text("ab", min_size=1, max_size=20))
        message: Any = draw(
            st.sampled_from(
                [
                    EmbedRequest(name, (image,), Pooling.PROJECTOR, 0.0),
                    EmbedRequest(name, (text, image), Pooling.HIDDEN, 0.0),
                    add(name, text, image, max_tokens=5),
                    add(name, text, max_tokens=8),
                    add(name, picture("refused")),
                    AbortRequest(str(number - 1)),
                ]
            )
        )
        batches.append((draw(st.booleans()), [message]))
    return batches


@settings(max_examples=300)
@given(conversations(), st.sampled_from([None, 0, 1, 3]), st.sampled_from([0.0, 10.0]))
def test_the_loop_never_sleeps_on_outputs(
    batches: list[tuple[bool, list[Any]]], cuts: int | None, interval: float
) -> None:
    serve(batches, cuts, interval)


@pytest.mark.parametrize("cuts", [None, 0, 2])
@pytest.mark.parametrize("name", ["new", "broken"])
def test_a_lone_picture_is_answered_on_an_idle_server(cuts: int | None, name: str) -> None:
    asked = EmbedRequest("e", (picture(name),), Pooling.PROJECTOR, 0.0)
    assert serve([(False, [asked])], cuts, 0.0).ended == {"e"}


@pytest.mark.parametrize("cuts", [None, 0, 2])
def test_a_chat_whose_picture_fails_is_answered_on_an_idle_server(cuts: int | None) -> None:
    assert serve([(False, [add("c", "text", picture("broken"))])], cuts, 0.0).ended == {"c"}
