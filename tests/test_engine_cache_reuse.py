"""--cache-reuse with llama.cpp: shifted cells are those that it computes, or shifts itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import copy_metadata, finish
from kinds import Driven, Parts, driven, noise
from live import DEMO
from numpy.typing import NDArray

from scripts.synthetic.tiny import write_tiny
from server.engine.llama.context import Batch, Context
from server.engine.llama.model import Model
from server.engine.llama.shift_check import check_shift, first_keys
from server.engine.loading.warm_up import sample_tokens

MODEL, MMPROJ = DEMO / "llava-demo-q8_0.gguf", DEMO / "llava-demo-mmproj-f16.gguf"
RULES = "".join(f"Rule {n}: be careful with shapes and colours. " for n in range(30))


def prompt(first: str, question: str = "what is it?") -> Parts:
    return [f"USER: {first} {RULES}{question} ASSISTANT:"]


def ask(engine: Driven, name: str, parts: Parts, count: int = 8) -> tuple[list[int], int, int]:
    """The answer, how many tokens were reused, and of how many."""
    engine.add(name, parts, count)
    answer = list(engine.run()[name])
    admitted = next(o for o in engine.outputs if getattr(o, "request_id", "") == name)
    total = int(admitted.prompt_tokens)  # type: ignore[attr-defined]
    return answer, engine.first_output(name).cached_tokens, total


@pytest.mark.parametrize("ram", [0, 1 << 28])
def test_a_changed_beginning_costs_little_but_itself(tmp_path: Path, ram: int) -> None:
    with driven(MODEL, MMPROJ, tmp_path, cache_reuse=32, prompt_cache_bytes=ram) as engine:
        ask(engine, "first", prompt("I am number 1.2.3 with a key of eb6c6."))
        ask(engine, "another", ["USER: something else. ASSISTANT:"])
        _, reused, total = ask(engine, "second", prompt("I am number 4 and have key 0aaa9, too."))
        assert total > 600
        assert total - reused < 60
        again, all_but_one, _ = ask(
            engine, "same", prompt("I am number 4 and have key 0aaa9, too.")
        )
        assert all_but_one == total - 1
        assert again == engine.tokens["second"], "what was shifted is shared like all else"
        engine.core.scheduler.check_integrity()


def test_off_is_the_default_and_reuses_the_beginning_alone(tmp_path: Path) -> None:
    with driven(MODEL, MMPROJ, tmp_path) as engine:
        ask(engine, "first", prompt("I am number 1.2.3 with a key of eb6c6."))
        _, reused, total = ask(engine, "second", prompt("I am number 4 and have key 0aaa9, too."))
        assert reused < 20 < total


def test_others_answers_do_not_change_while_cells_are_shifted(tmp_path: Path) -> None:
    parts = prompt("I am somebody else.", "name three colours")
    with driven(MODEL, MMPROJ, tmp_path) as engine:
        expected = ask(engine, "alone", parts, 60)[0]
    with driven(MODEL, MMPROJ, tmp_path, cache_reuse=32, parallel=4) as engine:
        engine.add("beside", parts, 60)
        for number in range(8):
            for _ in range(5):
                engine.step()
            engine.add(f"{number}", prompt(f"This is the {'very ' * number} changed one."), 3)
        answers = engine.run()
        reused = [engine.first_output(f"{number}").cached_tokens for number in range(1, 8)]
    assert answers["beside"] == expected
    assert min(reused) > 600


def test_a_picture_behind_a_change_is_shifted_whole(tmp_path: Path) -> None:
    with driven(MODEL, MMPROJ, tmp_path, cache_reuse=32, image_cache_bytes=0) as engine:
        for name, first in (("first", "I am one."), ("second", "And I am number two.")):
            parts = [f"USER: {first} ", noise("a", 64, 64), f"{RULES} ASSISTANT:"]
            _, reused, total = ask(engine, name, parts)
        outputs = [o for o in engine.outputs if getattr(o, "request_id", "") == "second"]
        first_token = engine.first_output("second")
    assert outputs
    assert total - reused < 40
    assert not first_token.images or not first_token.images[0].encode_seconds


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    opened = Model(MODEL, -1)
    yield opened
    opened.close()


def open_context(model: Model, keys: str = "f16", **settings: object) -> Context:
    chosen: dict[str, object] = {"cache_types": (keys, "f16"), "threads": 1} | settings
    return Context(model, n_ctx=1024, n_seq_max=4, n_batch=512, n_ubatch=512, **chosen)  # type: ignore[arg-type]


def decode(
    context: Context, model: Model, tokens: list[int], start: int, seq_id: int
) -> NDArray[np.float32]:
    """The last token's logits."""
    batch = Batch(512)
    row = batch.add(np.array(tokens, np.int32), start, seq_id, want_last=True)
    assert context.decode(batch)
    return context.logits(row, model.n_vocab).copy()


@pytest.mark.parametrize("change", ["another beginning, and a longer one. ", "x"])
@pytest.mark.parametrize(("flash_attn", "most"), [(True, 0.01), (False, 1e-6)])
def test_logits_behind_shifted_cells_are_those_of_llama_cpp_s_own_shift(
    model: Model, change: str, flash_attn: bool, most: float
) -> None:
    """Its own, as llama-server has it: the cells of one sequence are moved where they are.

    Flash attention adds up in the order of the cells, and these lie elsewhere here.
    """
    first = model.tokenize("USER: this is my beginning. ", add_special=True)
    second = model.tokenize(f"USER: {change}", add_special=True)
    rest = model.tokenize(RULES[:400], add_special=False)
    end = model.tokenize(" what is it? ASSISTANT:", add_special=False)
    behind = (len(first), len(first) + len(rest))
    shift = len(second) - len(first)

    ours = open_context(model, flash_attn=flash_attn)
    decode(ours, model, first + rest, 0, 0)
    before = ours.save(0)
    ours.place_shifted(1, ours.copy_ranges(0, 1, [behind]), [(*behind, shift)])
    decode(ours, model, second, 0, 2)
    ours.share(1, 2, behind[1] + shift, behind[0] + shift)
    ours.forget(1)
    found = decode(ours, model, end, behind[1] + shift, 2)
    assert np.array_equal(ours.save(0), before), "the other prompt keeps every bit"
    ours.close()

    theirs = open_context(model, flash_attn=flash_attn)
    memory = llama_cpp.llama_get_memory(theirs.handle)
    decode(theirs, model, first + rest, 0, 0)
    llama_cpp.llama_memory_seq_rm(memory, 0, 0, behind[0])
    llama_cpp.llama_memory_seq_add(memory, 0, *behind, shift)
    decode(theirs, model, second, 0, 1)
    llama_cpp.llama_memory_seq_cp(memory, 0, 1, behind[0] + shift, behind[1] + shift)
    expected = decode(theirs, model, end, behind[1] + shift, 1)
    theirs.close()

    assert np.abs(found - expected).max() <= most * np.ptp(expected)


def test_several_runs_keep_their_contents_whichever_way_they_are_shifted(model: Model) -> None:
    """Shifted there and back, every cell is what it was."""
    tokens = model.tokenize(RULES[:300], add_special=True)[:90]
    context = open_context(model, "f32")
    decode(context, model, tokens, 0, 0)
    runs = [(10, 20, 5), (21, 30, 10), (60, 70, -18), (71, 90, -15)]
    context.place_shifted(1, context.copy_ranges(0, 1, [run[:2] for run in runs]), runs)
    decode(context, model, tokens[:1], 0, 3)
    back = [(start + shift, end + shift, -shift) for start, end, shift in runs]
    context.place_shifted(2, context.copy_ranges(1, 2, [run[:2] for run in back]), back)
    decode(context, model, tokens[:1], 1, 3)
    context.forget(1)
    plain = context.copy_ranges(0, 1, [run[:2] for run in runs])
    moved = context.save(2)
    context.close()
    assert len(plain) == len(moved)
    count = sum(end - start for start, end, _ in runs)
    one, other = first_keys(plain, count), first_keys(moved, count)
    assert one is not None
    assert other is not None
    assert np.allclose(one, other, atol=1e-4)
    assert np.abs(one).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "possible"),
    [("llava-1.5", True), ("gemma3", True), ("gemma3-window", True), ("qwen2vl", False)],
)
def test_the_model_is_tried(tmp_path: Path, kind: str, possible: bool) -> None:
    tiny = Model(write_tiny(tmp_path, kind)[0], -1)
    context = open_context(tiny)
    assert (check_shift(context, sample_tokens(tiny)).refusal == "") == possible
    context.close()
    tiny.close()


@pytest.mark.parametrize("keys", ["bf16", "q8_0"])
def test_keys_that_llama_cpp_cannot_rotate_are_not_shifted(model: Model, keys: str) -> None:
    """It aborts with the first kind, and with heads of 32 numbers it crashes with the second."""
    context = open_context(model, keys)
    assert "keys are not f16 or f32" in check_shift(context, sample_tokens(model)).refusal
    context.close()


def test_a_model_with_keys_that_a_shift_scales_is_found_out(tmp_path: Path) -> None:
    """RoPE with a factor of its own (LongRoPE): llama.cpp applies it again with every shift."""
    path = write_tiny(tmp_path, "llava-1.5")[0]
    reader, writer = GGUFReader(path), GGUFWriter(tmp_path / "scaled.gguf", "llama")
    copy_metadata(reader, writer)
    writer.add_float32("llama.rope.scaling.attn_factor", 1.19)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    finish(writer)
    tiny = Model(tmp_path / "scaled.gguf", -1)
    context = open_context(tiny)
    assert (
        check_shift(context, sample_tokens(tiny)).refusal
        == "a shift changes the keys of other sequences"
    )
    context.close()
    tiny.close()
