"""Pictures encoded together: which ones, what becomes of them, and the rows' likeness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_fakes import IMAGE_TOKENS, add, countdown, drain, finish_encode, make_core, picture
from engine_fakes import text_of as said
from kinds import Reference, driven, noise
from tower_files import cosines

from scripts.synthetic.tiny import write_tiny
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.engine.request import ImageSegment, Picture, Request
from server.engine.scheduling.picture_queue import EncodeQueue
from server.engine.vision.mtmd_tower import MtmdTower
from server.engine.vision.open_tower import open_tower
from server.messages import AbortRequest, EngineConfig
from server.messages.sampling import SamplingParams


def waiting(name: str, *pictures: Picture) -> Request:
    segments = tuple(ImageSegment(each, each.n_tokens) for each in pictures)
    return Request(name, segments, SamplingParams(), 0.0, 1)


def seen(name: str, n_tokens: int = 9, edge: int = 1) -> Picture:
    image = replace(picture(name), width=edge, height=edge)
    return Picture(image, n_tokens, 3, 3)


def names(pictures: list[Picture]) -> list[str]:
    return [each.image.rgb.decode() for each in pictures]


def test_one_at_a_time_where_the_tower_cannot_more() -> None:
    encodes = EncodeQueue()
    requests = [waiting("1", seen("a")), waiting("2", seen("b"))]
    first = encodes.plan(requests, {})
    assert names(first) == ["a"]
    assert encodes.plan(requests, {}) == []
    encodes.finish(first[0])
    first[0].rows = np.zeros((9, 2), np.float32)
    assert names(encodes.plan(requests, {})) == ["b"]


def test_those_of_equal_size_go_together_up_to_the_bound() -> None:
    requests = [waiting(name, seen(name)) for name in "abcd"]
    assert names(EncodeQueue(at_once=27).plan(requests, {})) == ["a", "b", "c"]
    requests[1] = waiting("b", seen("b", edge=2))
    assert names(EncodeQueue(at_once=27).plan(requests, {})) == ["a"]
    assert names(EncodeQueue(at_once=5).plan(requests, {})) == ["a"]  # one is never too large


def test_the_same_picture_is_not_encoded_twice_in_one_run() -> None:
    requests = [waiting("1", seen("a")), waiting("2", seen("a")), waiting("3", seen("b"))]
    assert names(EncodeQueue(at_once=100).plan(requests, {})) == ["a", "b"]


def test_what_is_needed_now_comes_before_what_is_needed_later() -> None:
    """A request with many pictures does not keep another's first one waiting."""
    many = waiting("many", seen("a"), seen("b"), seen("c"))
    other = waiting("other", seen("x"))
    assert names(EncodeQueue(at_once=18).plan([many, other], {})) == ["a", "x"]
    many.pictures[0].rows = np.zeros((9, 2), np.float32)
    # While the first is prefilled, the tower goes on to the next.
    assert names(EncodeQueue().plan([many], {})) == ["b"]
    many.num_computed = 18
    assert names(EncodeQueue().plan([many], {})) == ["c"]


def test_who_leaves_takes_nothing_from_those_encoded_with_it() -> None:
    core, runner = make_core(n_seq=4, n_cells=200, slow_encodes=True, encode_at_once=100)
    for name in "abc":
        core.add(add(name, f"{name} ", picture(name)))
    core.step()
    core.step()
    assert [len(each) for each in core.pending] == [3]  # type: ignore[attr-defined]
    core.abort(AbortRequest("b"))
    runner.broken_pictures.add("b")
    outputs = drain(core, runner)
    assert runner.encodes == ["a", "c"]  # each alone, as together they failed
    for name in "ac":
        assert said(outputs[name]) == countdown(2 + IMAGE_TOKENS)
    assert core.scheduler.encodes.under_way == []


def test_an_abort_of_the_last_one_ends_the_wait() -> None:
    core, runner = make_core(slow_encodes=True, encode_at_once=100)
    core.add(add("a", picture("a")))
    core.step()
    core.abort(AbortRequest("a"))
    finish_encode(core, runner)
    core.add(add("b", picture("b")))
    assert said(drain(core, runner)["b"]) == countdown(IMAGE_TOKENS)


@pytest.fixture
def quiet() -> Iterator[None]:
    log = LlamaLog()
    yield
    log.stop_keeping()


def opened(folder: Path, kind: str, **settings: object) -> tuple[Model, MtmdTower]:
    path, mmproj = write_tiny(folder, kind)
    model = Model(path, 0)
    config = EngineConfig(path, mmproj, folder / "cache", 0, 1, 1, **settings)  # type: ignore[arg-type]
    encoder = open_tower(config, model)
    assert encoder is not None
    return model, encoder


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("kind", "together"),
    # LLaVA's graph takes one at a time; its repair and its rows' ends hold all the same.
    [("internvl", True), ("gemma4", True), ("llava-1.5", False), ("llava-1.6", False)],
)
def test_rows_are_the_same_as_those_of_each_alone(
    kind: str, together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = opened(tmp_path, kind)
    size = (56, 56) if kind.startswith("llava") else (150, 100)
    images = [noise(name, *size) for name in "abcd"] + [noise("e", 56, 56)]
    alone = [rows for image in images for rows in encoder.encode([image])]
    encoder.encode_together(4096)
    assert (encoder.batch_tokens > 0) == together
    runs: list[int] = []
    one = encoder._vision._encode_one
    monkeypatch.setattr(encoder._vision, "_encode_one", lambda c: runs.append(1) or one(c))
    for rows, expected in zip(encoder.encode(images), alone, strict=True):
        assert rows.shape == expected.shape
        assert cosines(rows, expected).min() > 0.99999
    # Together, only the last picture of another size, or nothing, is left for a run of its own.
    assert (len(runs) < 2) == together
    encoder.close()
    model.close()


@pytest.mark.parametrize("kind", ["internvl", "gemma4"])
def test_answers_about_pictures_encoded_together(kind: str, tmp_path: Path) -> None:
    files = write_tiny(tmp_path, kind)
    log = LlamaLog()
    reference = Reference(*files)
    asked = {name: ["USER: look ", noise(name, 150, 100), " ASSISTANT:"] for name in "abcd"}
    with driven(*files, tmp_path, mtmd_batch_max_tokens=2048) as engine:
        batches: list[int] = []
        encode = engine.engine.encoders.encoding._encode  # type: ignore[union-attr]

        def counting(images: list[object]) -> object:
            batches.append(len(images))
            return encode(images)  # type: ignore[arg-type]

        engine.engine.encoders.encoding._encode = counting  # type: ignore[union-attr, assignment]
        for name, parts in asked.items():
            engine.add(name, parts, 16)
        answers = engine.run()
    assert max(batches) > 1
    assert sum(batches) == 4
    for name, parts in asked.items():
        assert answers[name] == reference.tokens(parts, 16)
    reference.close()
    log.stop_keeping()
