"""EncodeQueue in slices: who gets the processor when, and what ends an encode early."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from server.engine.llama.ggml import Cuts
from server.engine.request import Picture
from server.engine.vision.encode import SlicedEncodes
from server.messages import AddRequest
from server.messages.sampling import SamplingParams
from tests.engine_fakes import make_core, picture


def image(name: str) -> Picture:
    return Picture(picture(name), 4, 2, 2)


class Graph:
    """EncodeQueue of ten parts, each with a cut after it, as ggml's scheduler would call them."""

    def __init__(self, cuts: Cuts, part_seconds: float = 0.0) -> None:
        self.cuts = cuts
        self.part_seconds = part_seconds
        self.computed = 0

    def encode(self, pictures: list[object]) -> list[np.ndarray]:
        self.computed = 0
        for _ in range(10):
            time.sleep(self.part_seconds)
            self.computed += 1
            wanted = self.cuts.callback(None, True, None)
            if wanted and not self.cuts.callback(None, False, None):
                break
        return [np.zeros((4, 2), np.float32) for _ in pictures]


def sliced(target: float, part_seconds: float = 0.0) -> tuple[SlicedEncodes, Graph]:
    cuts = Cuts()
    graph = Graph(cuts, part_seconds)
    return SlicedEncodes(graph.encode, cuts, target), graph


def encode(slices: SlicedEncodes, step: Callable[[], float | None], **given: Any) -> Any:
    called = given.get("called", lambda: False)
    (done,) = slices.encode_next(step, called, given.get("wanted", lambda _picture: True))
    return done


def test_a_step_runs_whenever_a_slice_is_over() -> None:
    slices, graph = sliced(target=0.0)
    run, steps = image("a"), []
    slices.submit([run])
    assert slices.jobs
    done = encode(slices, lambda: steps.append(graph.computed) or 0.0)
    assert (done.picture, done.error, len(done.rows)) == (run, "", 4)
    assert steps == list(range(1, 11))
    assert not slices.jobs


def test_the_slice_is_what_the_step_leaves_of_the_target() -> None:
    slices, graph = sliced(target=60.0)
    steps: list[int] = []
    slices.submit([image("a")])
    encode(slices, lambda: steps.append(graph.computed) or 0.001)
    assert steps == [1]  # the next slice would last a minute


def test_an_encode_gets_its_share_beside_steps_longer_than_the_target() -> None:
    slices, graph = sliced(target=0.01, part_seconds=0.001)
    steps: list[int] = []
    slices.submit([image("a")])
    encode(slices, lambda: steps.append(graph.computed) or 10.0)
    assert steps == [1]


def test_with_nothing_else_to_do_only_messages_interrupt() -> None:
    slices, graph = sliced(target=0.0)
    steps: list[int] = []
    slices.submit([image("a")])
    encode(slices, lambda: steps.append(graph.computed), called=lambda: graph.computed == 5)
    assert steps == [1, 5]


def test_a_picture_that_nobody_wants_any_more_is_left_unfinished() -> None:
    slices, graph = sliced(target=0.0)
    slices.submit([image("a")])
    done = encode(slices, lambda: 0.0, wanted=lambda _picture: graph.computed != 3)
    assert graph.computed == 3
    assert done.rows is None
    assert done.error == "no request waits for it"


def test_what_a_step_raises_comes_out_of_the_encode() -> None:
    slices, graph = sliced(target=0.0)
    slices.submit([image("a")])

    def step() -> float:
        raise RuntimeError("llama_decode returned -3")

    with pytest.raises(RuntimeError, match="llama_decode"):
        encode(slices, step)
    assert graph.computed == 1
    slices.submit([image("b")])
    assert encode(slices, lambda: 0.0).error == ""


def test_the_time_of_others_steps_is_not_the_encodes() -> None:
    slices, _ = sliced(target=0.0)
    slices.submit([image("a")])
    done = encode(slices, lambda: time.sleep(0.02) or 0.02)
    assert 0 <= done.seconds < 0.2


def test_cuts_come_seldom_where_operations_are_short() -> None:
    cuts = Cuts()
    graph = Graph(cuts)
    calls: list[int] = []
    for _ in range(2):
        calls.clear()
        cuts.run(lambda: graph.encode([None]), lambda: calls.append(1) is None)
    assert len(calls) < 10


def test_the_scheduler_knows_who_waits_for_a_picture() -> None:
    core, _ = make_core(slow_encodes=True)
    core.add(AddRequest("r", (picture("a"),), SamplingParams(max_tokens=2), 0.0))
    core.step()
    (seen,) = core.scheduler.encodes.under_way
    assert core.scheduler.needs(seen)
    request = core.scheduler.find("r")
    assert request is not None
    core.scheduler.finish(request)
    assert not core.scheduler.needs(seen)
