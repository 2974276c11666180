"""Sliding windows: checkpoints let another question, or the same prompt again, reuse a prefix."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_fakes import add, drain, make_core, picture, text_of
from kinds import Driven, Parts, Reference, driven, noise
from test_engine_kinds import check

from scripts.synthetic.tiny import write_tiny
from server.engine.core import EngineCore
from server.engine.llama.log import LlamaLog
from server.engine.scheduling.prefix_cache import CHECKPOINT_EVERY
from server.engine.scheduling.ram_store import PromptStore
from server.messages import ImageInput, TokenOutput

WINDOW = 12


def ask(core: EngineCore, name: str, *parts: str | ImageInput, max_tokens: int = 9) -> int:
    """Asks; returns how many tokens were reused."""
    core.add(add(name, *parts, max_tokens=max_tokens))
    outputs = drain(core)[name]
    first = next(o for o in outputs if isinstance(o, TokenOutput))
    assert text_of(outputs).startswith(f"{sum(9 if p is not str(p) else len(p) for p in parts)},")
    return first.cached_tokens


def windowed(most_bytes: int = 10_000) -> EngineCore:
    store = PromptStore(most_bytes, block=4)
    return make_core(n_seq=2, n_cells=400, window=WINDOW, store=store, image_bytes=10_000)[0]


def test_the_same_prompt_again_computes_its_last_token() -> None:
    core = windowed()
    prompt = "p" * 40
    assert ask(core, "first", prompt) == 0
    assert ask(core, "again", prompt) == 39
    assert ask(core, "and again", prompt) == 39


def test_an_answer_that_comes_back_changed_costs_only_itself() -> None:
    core = windowed()
    ask(core, "first", "p" * 40)
    assert ask(core, "next", "p" * 40 + "another answer") == 40


def test_another_question_about_the_same_pictures_reuses_them() -> None:
    core = windowed()
    pictures = [picture("a"), picture("b")]
    assert ask(core, "first", "look ", *pictures, "what is it? Tell me all.") == 0
    assert ask(core, "second", "look ", *pictures, "who?") == 5 + 2 * 9
    assert ask(core, "other", "look ", picture("a"), picture("c"), "who?") == 0


def test_without_the_ram_there_are_no_checkpoints() -> None:
    core = windowed(most_bytes=0)
    ask(core, "first", "p" * 40)
    assert ask(core, "again", "p" * 40) == 0


def test_their_memory_is_bounded() -> None:
    core = windowed(most_bytes=100)
    store = core.scheduler.prefixes.store
    for letter in "abcdefgh":
        ask(core, letter, letter * 40, "x" * 9)
        assert store.n_bytes <= 100
        core.scheduler.check_integrity()
    assert ask(core, "last", "h" * 40, "x" * 9) == 48
    assert ask(core, "gone", "a" * 40, "x" * 9) == 0


def test_short_prompts_and_other_models_have_none() -> None:
    core = windowed()
    ask(core, "short", "p" * (WINDOW // 4 - 1))
    ask(core, "never leaves", "q" * 4, max_tokens=3)
    assert not core.scheduler.prefixes.store.prompts
    plain, _ = make_core(n_cells=400, store=PromptStore(10_000, block=4))
    ask(plain, "long", "p" * 40)
    assert not any(prompt.checkpoint for prompt in plain.scheduler.prefixes.store.prompts)


def test_a_long_prompt_has_some_in_between() -> None:
    length = 2 * CHECKPOINT_EVERY + 100
    store = PromptStore(10_000_000)
    core, _ = make_core(n_seq=1, n_cells=60_000, n_batch=4000, window=WINDOW, store=store)
    ask(core, "book", "b" * length, max_tokens=20)
    places = sorted(len(prompt.keys) for prompt in store.prompts if prompt.checkpoint)
    assert places == [CHECKPOINT_EVERY, 2 * CHECKPOINT_EVERY, length]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny(tmp_path_factory.mktemp("window"), "gemma3-window")


@pytest.fixture(scope="module")
def reference(files: tuple[Path, Path]) -> Iterator[Reference]:
    log = LlamaLog()
    opened = Reference(*files)
    yield opened
    opened.close()
    log.stop_keeping()


def prompt(question: str) -> Parts:
    return ["USER: here ", *(noise(str(n), 112, 112) for n in range(8)), question, " ASSISTANT:"]


def test_llama_cpp_s_tokens_are_the_same_from_a_checkpoint(
    files: tuple[Path, Path], reference: Reference
) -> None:
    """Eight pictures are more than the window holds: all would have to be computed anew."""
    asked = {
        "first": "describe these pictures one after the other, please",
        "again": "describe these pictures one after the other, please",
        "other": "who is there?",
        "one more": "name the colours",
    }
    with driven(*files, files[0].parent, itl_target=1e-6) as engine:
        answers, reused = {}, {}
        for name, question in asked.items():
            engine.add(name, prompt(question), 24)
            answers[name] = list(engine.run()[name])
            reused[name] = engine.first_output(name).cached_tokens
        length = engine_length(engine, "first")
    assert answers["again"] == answers["first"]
    for name in ("other", "one more"):
        check(answers[name], reference, prompt(asked[name]))
    assert reused["first"] == 0
    assert reused["again"] == length - 1
    assert reused["other"] == reused["one more"] > 8 * 16


def engine_length(engine: Driven, name: str) -> int:
    admitted = [o for o in engine.outputs if getattr(o, "request_id", "") == name]
    return int(admitted[0].prompt_tokens)  # type: ignore[attr-defined]


def test_many_at_once_go_on_from_one_checkpoint(
    files: tuple[Path, Path], reference: Reference
) -> None:
    """More restored windows than llama.cpp's small cache has cells for are computed instead."""
    with driven(*files, files[0].parent, itl_target=1e-6, ctx_size=1024) as engine:
        engine.add("first", prompt("describe them"), 24)
        engine.run()
        questions = ["who is there?", "name the colours"]
        for number in range(8):
            engine.add(str(number), prompt(questions[number % 2]), 24)
        answers = engine.run()
        engine.core.scheduler.check_integrity()
        for number in range(8):
            check(answers[str(number)], reference, prompt(questions[number % 2]))


def test_conversations_under_pressure_never_see_a_lost_cell() -> None:
    """The runner fails on a cell that was written over, and on more cells than there are."""
    restored = 0
    for seed in range(60):
        draw = random.Random(seed)
        store = PromptStore(draw.choice([60, 200, 2000]), block=3)
        n_cells, n_batch = draw.randint(50, 160), draw.choice([10, 24, 64])
        core, runner = make_core(
            draw.randint(1, 3), n_cells, n_batch, window=WINDOW, store=store,
            idle_cells=draw.choice([20, 2048]), image_bytes=10_000,
        )  # fmt: skip
        outputs: dict[str, list[object]] = {}
        lengths = {}
        for number in range(10):
            parts = [draw.choice(["p" * 20, "p" * 14]), *[picture("a")] * draw.randint(0, 1)]
            parts.append(draw.choice("xyz") * draw.randint(1, 9))
            tokens = draw.randint(1, 14)
            lengths[str(number)] = sum(len(p) if isinstance(p, str) else 9 for p in parts), tokens
            core.add(add(str(number), *parts, max_tokens=tokens))
            for _ in range(draw.randint(0, 12)):
                for output in core.step().outputs:
                    outputs.setdefault(output.request_id, []).append(output)
                core.scheduler.check_integrity()
        for name, more in drain(core).items():
            outputs.setdefault(name, []).extend(more)
        for name, (length, tokens) in lengths.items():
            answer = [f"{n}," for n in range(length, max(length - tokens, 0), -1)]
            assert text_of(outputs[name]) == "".join(answer[: n_cells - length])
        restored += runner.restored_windows
    assert restored > 30
