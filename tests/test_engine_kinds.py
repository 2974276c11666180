"""Models of every kind: their greedy tokens are those of llama.cpp's own multimodal path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kinds import Driven, Parts, Reference, driven, noise

from scripts.synthetic.tiny import TINY, write_pair_of, write_tiny
from server.engine.intake import count
from server.engine.llama.log import LlamaLog
from server.errors import StartupError
from server.images.geometry import fewer
from server.messages import AbortRequest, Counted, CountRequest, ImageInput, TokenOutput

STEPS = 24
# LLaVA-1.5's square is made by us, so a picture of its size goes through unchanged.
SIZES = {"llava-1.5": [(56, 56)] * 2}
PICTURES = [(150, 100), (90, 200)]
ONE_BATCH = {"llava-1.5", "llava-1.6", "idefics3", "internvl", "pixtral", "minicpmv"}


@pytest.fixture(scope="module", params=TINY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def files(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny(tmp_path_factory.mktemp(kind), kind)


@pytest.fixture(scope="module")
def reference(files: tuple[Path, Path]) -> Iterator[Reference]:
    log = LlamaLog()
    opened = Reference(*files)
    yield opened
    opened.close()
    log.stop_keeping()


@pytest.fixture(scope="module")
def engine(files: tuple[Path, Path]) -> Iterator[Driven]:
    with driven(*files, files[0].parent, itl_target=1e-6) as opened:
        yield opened


def pictures(kind: str) -> list[ImageInput]:
    sizes = SIZES.get(kind, PICTURES)
    return [noise(name, *size) for name, size in zip("ab", sizes, strict=True)]


def prompts(kind: str) -> dict[str, list[str | ImageInput]]:
    a, b = pictures(kind)
    return {
        "a": ["USER: look at ", a, " and say what ASSISTANT:"],
        "b": ["USER: look at ", b, " and say what ASSISTANT:"],
        "ab": ["USER: first ", a, " then ", b, " which one? ASSISTANT:"],
        "ba": ["USER: first ", b, " then ", a, " which one? ASSISTANT:"],
        "text": ["USER: and without any of them? ASSISTANT:"],
    }


def check(answer: list[int], reference: Reference, parts: Parts) -> None:
    """The answer is the reference's, up to a token whose lead is within rounding, if any.

    What else is in a batch changes the order of sums, and keys and values are kept in 16 bits, so
    logits move by up to a few thousandths of their spread.
    """
    expected = reference.tokens(parts, len(answer))
    pairs = enumerate(zip(answer, expected, strict=True))
    parting = next((step for step, (ours, theirs) in pairs if ours != theirs), None)
    if parting is not None:
        assert parting >= 8
        assert reference.margins[parting] < 0.01, f"parted at token {parting}"
    assert np.median(reference.margins) > 0.1  # so the comparison says something


def test_text_and_pictures_share_a_batch_where_they_can(kind: str, engine: Driven) -> None:
    """Not what is attended to in both directions, nor what is placed in two dimensions."""
    assert engine.core.scheduler.one_batch == (63 if kind in ONE_BATCH else 0)


def test_greedy_tokens_are_llama_cpp_s(kind: str, engine: Driven, reference: Reference) -> None:
    """One after the other. Another picture, or another order, means another answer."""
    answers = {}
    for name, parts in prompts(kind).items():
        engine.add(name, parts, STEPS)
        answers[name] = list(engine.run()[name])
        check(answers[name], reference, parts)
    assert len({tuple(answer) for answer in answers.values()}) == len(answers)
    assert len({token for answer in answers.values() for token in answer}) > STEPS


def test_the_answer_is_the_same_whatever_runs_beside_it(
    files: tuple[Path, Path], kind: str, reference: Reference
) -> None:
    """All at once in too few cells: prefill in small chunks beside decodes, shared prefixes, and
    requests that are preempted and go on later.
    """
    asked = prompts(kind)
    asked["again"] = [*asked["a"][:-1], " and where it is, please? ASSISTANT:"]
    long = 150
    settings = {"ctx_size": 512, "itl_target": 1e-6}
    with driven(*files, files[0].parent, **settings) as engine:
        for name, parts in asked.items():
            engine.add(name, parts, long)
            engine.step()
        answers = engine.run()
        assert engine.core.scheduler.preemptions
        assert engine.core.scheduler.kv.pinned == 0
    for name, parts in asked.items():
        check(answers[name], reference, parts)


def test_usage_counts_what_was_encoded(kind: str, engine: Driven) -> None:
    for name, parts in prompts(kind).items():
        engine.add(f"usage {name}", parts, 1)
        engine.run()
        told = engine.first_output(f"usage {name}")
        counted = count(engine.core.runner, CountRequest("c", tuple(parts)))
        assert isinstance(counted, Counted)
        assert counted.image_tokens == sum(image.tokens for image in told.images)
        assert len(told.images) == sum(isinstance(part, ImageInput) for part in parts)


def test_a_picture_is_computed_once_for_two_questions(kind: str, engine: Driven) -> None:
    """With a sliding window, while no sequence was as long: then nothing is written over."""
    image = noise("shared", *SIZES.get(kind, PICTURES)[0])
    for index, question in enumerate(("what is it?", "how large is it?")):
        engine.add(f"q{index}", ["USER: here ", image, question, " ASSISTANT:"], 4)
        engine.run()
    first, second = (engine.first_output(f"q{index}") for index in range(2))
    assert not first.images[0].cached
    assert second.images[0].cached
    assert second.cached_tokens > second.images[0].tokens


def test_a_prompt_from_the_ram_goes_on_as_from_the_cache(
    files: tuple[Path, Path], kind: str, reference: Reference
) -> None:
    asked = prompts(kind)
    with driven(*files, files[0].parent, prefix_cache_cells=0) as engine:
        store = engine.core.scheduler.prefixes.store
        for name, parts in asked.items():
            engine.add(name, parts, 2)
            engine.run()
        assert sum(not prompt.checkpoint for prompt in store.prompts) == len(asked) - 1
        hits = store.hits
        for name, parts in asked.items():
            engine.add(f"{name} again", parts, STEPS)
            check(engine.run()[f"{name} again"], reference, parts)
        told = [engine.first_output(f"{name} again") for name in asked]
        assert store.hits > hits
        assert all(output.cached_tokens > 32 for output in told if output.images)
        assert engine.core.scheduler.kv.pinned == 0


def test_pictures_that_were_made_smaller_have_the_same_tokens(kind: str, engine: Driven) -> None:
    """libmtmd would shrink them itself; its answer is from the size alone."""
    handles, facts = engine.engine.handles, engine.engine.ready.vision
    assert handles.tower is not None
    assert facts is not None
    if facts.fixed:
        assert not facts.most_pixels
        return
    # This Gemma 4's table of positions is too short for the long one, which is refused.
    long = (9000, 1500) if kind == "gemma4" else (9000, 1000)
    for size in ((8000, 6000), (3000, 4000), long, (1999, 7001), (6144, 8192)):
        smaller = fewer(*size, facts.most_pixels)
        assert smaller[0] < size[0]
        one, two = (
            handles.tower.tokenize([ImageInput("", *each, b"", *each)]) for each in (size, smaller)
        )
        assert one == two, size


def test_an_abort_at_any_moment_leaves_the_others_alone(kind: str, engine: Driven) -> None:
    a, b = (noise(name, *size) for name, size in zip("cd", SIZES.get(kind, PICTURES), strict=True))
    engine.add("alone", ["USER: see ", a, " ASSISTANT:"], STEPS)
    alone = list(engine.run()["alone"])
    for steps in range(8):
        gone, kept = f"gone {steps}", f"kept {steps}"
        engine.add(gone, [f"USER: {steps} ", b, " ASSISTANT:"], STEPS)
        for _ in range(steps):
            engine.step()
        engine.add(kept, ["USER: see ", a, " ASSISTANT:"], STEPS)
        engine.step()
        engine.core.abort(AbortRequest(gone))
        answer = engine.run()[kept]
        assert answer[:8] == alone[:8]
    told = [o.request_id for o in engine.outputs if isinstance(o, TokenOutput) and o.finish_reason]
    assert not [name for name in told if name.startswith("gone")]
    assert engine.core.scheduler.kv.pinned == 0


def test_a_model_without_the_words_around_pictures_is_refused(tmp_path: Path) -> None:
    """libmtmd would put token -1 in their place, and llama_decode fail for everybody."""
    pair = replace(TINY["idefics3"], words=())
    files = write_pair_of(tmp_path, "wordless", pair)
    with (
        pytest.raises(StartupError, match="words that projector 'idefics3' puts around"),
        driven(*files, tmp_path),
    ):
        pass


def test_a_batch_too_small_for_a_whole_picture_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 4 takes up to 1120 tokens a picture; --image-max-tokens makes them fewer."""
    files = write_tiny(tmp_path, "gemma4")
    with caplog.at_level("INFO"), driven(*files, tmp_path) as engine:
        facts = engine.engine.ready.vision
        assert facts is not None
        assert (facts.non_causal, facts.largest_picture > 1000) == (True, True)
        assert "--ubatch-size from 512 to " in caplog.text
        engine.add("large", ["USER: ", noise("a", 900, 900), " ASSISTANT:"], 4)
        assert len(engine.run()["large"]) == 4
    caplog.clear()
    with caplog.at_level("INFO"), driven(*files, tmp_path, image_max_tokens=80) as engine:
        assert "--ubatch-size" not in caplog.text
