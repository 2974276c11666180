"""Requests that wait for one another's prefill go on together."""

from __future__ import annotations

import pytest
from engine_fakes import IMAGE_TOKENS, add, drain, make_core, picture

from server.engine.core import EngineCore
from server.messages import AbortRequest, TokenOutput

OWN = "and what is this, please?"


def ask(core: EngineCore, count: int, own: str = OWN) -> None:
    for index in range(count):
        core.add(add(f"{index}", "look at ", picture("x"), f"{index} {own}", max_tokens=5))


def first_tokens(core: EngineCore) -> list[int]:
    """In which step each request has its first token, in the order of their names."""
    found: dict[str, int] = {}
    for step in range(300):
        if not core.has_work:
            break
        for output in core.step().outputs:
            if isinstance(output, TokenOutput):
                found.setdefault(output.request_id, step)
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("kind", ["plain", "whole", "mrope", "tiled"])
@pytest.mark.parametrize("one_batch", [0, 300])
def test_questions_about_one_picture_are_answered_together(kind: str, one_batch: int) -> None:
    core, runner = make_core(8, 600, 300, kind=kind, one_batch=one_batch)
    ask(core, 8)
    assert len(set(first_tokens(core))) == 1
    shared = len("look at ") + IMAGE_TOKENS + (kind == "tiled")
    assert runner.computed == shared + 8 * (len(OWN) + 2) + 8 * 4, "the picture is computed once"


def test_nobody_waits_for_a_few_tokens() -> None:
    """They fit beside a decode: the one that was first is answered first."""
    core, _ = make_core(8, 600, 300, one_batch=300)
    ask(core, 3, own="?")
    first, *others = first_tokens(core)
    assert first < min(others)


def test_nobody_pauses_where_all_together_are_more_than_a_batch() -> None:
    core, runner = make_core(8, 2000, 100, one_batch=100)
    start = "you are a helpful assistant; "
    core.add(add("0", start + "0" * 60, max_tokens=1))
    for name in "123":
        core.add(add(name, start + name * 300, max_tokens=1))
    core.step()
    assert runner.prefilled["0"] == len(start) + 60, "it would come after the first of theirs"


def test_a_place_that_is_reached_keeps_nobody_from_pausing_later() -> None:
    core, runner = make_core(8, 600, 300, kind="whole", one_batch=300)
    core.add(add("0", "look at ", picture("x"), "0" + OWN, max_tokens=1))
    core.step()
    core.add(add("text", "look at ", picture("y"), OWN, max_tokens=1))
    core.add(add("1", "look at ", picture("x"), "1" + OWN, max_tokens=1))
    core.step()
    assert runner.prefilled["0"] == len("look at ") + IMAGE_TOKENS


def test_nobody_pauses_for_those_that_have_no_slot() -> None:
    core, runner = make_core(1, 600, 300, one_batch=300)
    ask(core, 2)
    for _ in range(2):
        core.step()
    assert runner.prefilled["0"] == len("look at ") + IMAGE_TOKENS + len(OWN) + 2


def test_while_somebody_decodes_all_comes_in_small_chunks_anyway() -> None:
    core, runner = make_core(8, 600, 300)
    core.add(add("stream", "s" * 100, max_tokens=90))
    core.step()
    ask(core, 4)
    assert len(set(first_tokens(core))) > 2
    assert runner.prefilled["0"] == len("look at ") + IMAGE_TOKENS + len(OWN) + 2


def test_it_pauses_once_for_each_place_where_somebody_parts() -> None:
    core, runner = make_core(8, 900, 300)
    start = "you are a helpful assistant; "
    core.add(add("0", start, picture("x"), "0" + OWN, max_tokens=2))
    core.add(add("1", start, picture("x"), "1" + OWN, max_tokens=2))
    core.add(add("2", start, "2" + OWN, max_tokens=2))
    *questions, text = first_tokens(core)
    assert text < min(questions), "it is not kept waiting for the picture"
    done = len(start) + IMAGE_TOKENS + 3 * (len(OWN) + 1)
    assert sum(runner.prefilled.values()) == done


def test_the_leader_may_leave_while_it_pauses() -> None:
    core, runner = make_core(8, 600, 300)
    ask(core, 4)
    for _ in range(2):
        core.step()
    (leader,) = core.scheduler.running
    shared = len("look at ") + IMAGE_TOKENS
    assert leader.num_computed == shared
    core.abort(AbortRequest(leader.request_id))
    outputs = drain(core)
    assert all(len(outputs[name]) >= 5 for name in "123")
    assert runner.computed == shared + 3 * (len(OWN) + 2 + 4)
