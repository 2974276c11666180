"""Tokens as rows of token_embd: what llama.cpp computes of them is what it computes of ids."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from gguf_files import copy_metadata, finish
from kinds import driven, noise
from live import DEMO
from split import split

from scripts.synthetic.languages import Language
from scripts.synthetic.shapes import LlmShape
from scripts.synthetic.tiny import TINY, write_pair_of, write_tiny
from server.engine import token_embeddings as token_rows
from server.engine.llama.context import Batch, Context
from server.engine.llama.ggml import Dequantizer, ggml
from server.engine.llama.model import Model
from server.engine.loading import load as loading
from server.engine.token_embeddings import TokenRows, open_token_rows, read_token_rows

MODEL, MMPROJ = DEMO / "llava-demo-q8_0.gguf", DEMO / "llava-demo-mmproj-f16.gguf"


class Tower:
    """What is asked of an encoder here."""

    def __init__(self, whole: bool = False, n_sections: int = 1) -> None:
        self.whole = whole
        self.n_sections = n_sections


@contextmanager
def opened(path: Path) -> Iterator[tuple[Model, Context]]:
    model = Model(path, 0)
    context = Context(model, n_ctx=512, n_seq_max=2, n_batch=512, n_ubatch=512, threads=1)
    try:
        yield model, context
    finally:
        context.close()
        model.close()


def logits(model: Model, context: Context, rows: np.ndarray) -> np.ndarray:
    """After each of a few of the rows, computed together."""
    batch = Batch(len(rows), model.n_embd if rows.ndim > 1 else 0)
    asked = [batch.add(rows[at : at + 50], at, 0, want_last=True) for at in range(0, len(rows), 50)]
    assert context.decode(batch)
    told = [np.array(context.logits(row, model.n_vocab)) for row in asked[-2:]]
    context.clear()
    return np.stack(told)


def quantize(values: np.ndarray, kind: Kind) -> np.ndarray:
    """By ggml itself, bytes of rows."""
    base = ggml()
    base.ggml_row_size.restype, base.ggml_row_size.argtypes = (
        ctypes.c_size_t,
        [
            ctypes.c_int,
            ctypes.c_int64,
        ],
    )
    n_rows, width = values.shape
    raw = np.zeros((n_rows, base.ggml_row_size(int(kind), width)), np.uint8)
    call = base.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    values = np.ascontiguousarray(values, np.float32)
    assert call(int(kind), values.ctypes.data, raw.ctypes.data, 0, n_rows, width, None) == raw.size
    return raw


def retyped(path: Path, target: Path, kind: Kind) -> Path:
    """The same model with another type of token_embd."""
    reader, writer = GGUFReader(path), GGUFWriter(target, "llama")
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        data = np.asarray(tensor.data)
        if tensor.name == "token_embd.weight":
            writer.add_tensor(tensor.name, quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    finish(writer)
    return target


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model wide enough for every type's blocks."""
    language = Language("llama", LlmShape(256, 1, 4, 2, 64, 512, 4096))
    pair = replace(TINY["minicpmv"], language=language)
    return write_pair_of(tmp_path_factory.mktemp("wide"), "wide", pair)[0]


@pytest.mark.parametrize(
    "name",
    [
        "F32",
        "F16",
        "BF16",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_NL",
        "IQ4_XS",
        "MXFP4",
    ],
)
def test_rows_give_the_logits_of_ids_bit_for_bit(wide: Path, tmp_path: Path, name: str) -> None:
    path = retyped(wide, tmp_path / "model.gguf", Kind[name])
    with opened(path) as (model, context):
        tokens = np.random.default_rng(1).permutation(model.n_vocab)[:500].astype(np.int32)
        rows = read_token_rows(model).read(tokens)
        assert rows.shape == (500, 256)
        ids = logits(model, context, tokens)
        assert np.array_equal(ids, logits(model, context, rows))
        assert ids.std() > 0
        assert not np.array_equal(ids, logits(model, context, rows[::-1]))


def test_the_demo_model_s_rows_are_exact() -> None:
    with opened(MODEL) as (model, context):
        rows = read_token_rows(model)
        for start in (0, 465):
            tokens = np.arange(start, start + 500, dtype=np.int32)
            ids = logits(model, context, tokens)
            assert np.array_equal(ids, logits(model, context, rows.read(tokens)))


def test_rows_are_found_in_any_part_of_a_split_model(tmp_path: Path) -> None:
    whole, _ = write_tiny(tmp_path, "llava-1.5")
    parts = sorted(split(whole, 3))
    tokens = np.arange(100, dtype=np.int32)
    with opened(whole) as (model, _), opened(tmp_path / parts[0]) as (divided, _):
        expected = read_token_rows(model).read(tokens)
        assert np.array_equal(read_token_rows(divided).read(tokens), expected)
        (tmp_path / parts[0]).unlink()
        assert open_token_rows(divided, None, Tower(), 512) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tower", "said"),
    [(Tower(whole=True), "left to right"), (Tower(n_sections=4), "left to right"), (Tower(), "")],
)
def test_the_log_says_which_way_it_is(
    tower: Tower, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(MODEL) as (model, context), caplog.at_level("INFO"):
        rows: Any = open_token_rows(model, context, tower, 512)  # type: ignore[arg-type]
        assert (rows is None) == bool(said)
        assert said in caplog.text
        assert ("go in one batch" in caplog.text) == (rows is not None)
        assert open_token_rows(model, context, None, 512) is None


def test_a_model_that_does_more_with_a_token_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 3 scales tokens, and no embeddings: not on the list, and found out if it were."""
    path, _ = write_tiny(tmp_path, "gemma3")
    with opened(path) as (model, context), caplog.at_level("INFO"):
        assert open_token_rows(model, context, Tower(), 512) is None  # type: ignore[arg-type]
        assert "not known whether gemma3" in caplog.text
        monkeypatch.setattr(token_rows, "_PLAIN", {"gemma3"})
        assert open_token_rows(model, context, Tower(), 512) is None  # type: ignore[arg-type]
        assert "not all that a token is" in caplog.text


def test_other_rows_than_the_model_s_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(model: Model) -> TokenRows:
        rows = read_token_rows(model)
        rows._raw = np.roll(rows._raw, 1, axis=0)
        return rows

    monkeypatch.setattr(token_rows, "read_token_rows", shifted)
    with opened(MODEL) as (model, context):
        assert open_token_rows(model, context, Tower(), 512) is None  # type: ignore[arg-type]


def test_a_type_that_ggml_cannot_read_is_refused() -> None:
    with pytest.raises(LookupError, match="Q8_1"):
        Dequantizer(Kind.Q8_1)


def test_streams_beside_pictures_say_the_same_in_one_batch_and_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo model: two streams, new pictures and two in one prompt, all at once and alone."""
    see = ["USER: ", noise("a", 64, 64), " What is there? ASSISTANT:"]
    asked = {
        "stream": ["USER: Tell me a long story. ASSISTANT:"],
        "a": see,
        "b": ["USER: Look. ", noise("b", 64, 64), " Say what it is. ASSISTANT:"],
        "both": ["USER: ", *see[1:2], " and ", noise("c", 64, 64), " are they alike? ASSISTANT:"],
    }

    def answers(*, alone: bool) -> tuple[int, int, dict[str, list[int]]]:
        calls = 0
        with driven(MODEL, MMPROJ, tmp_path, itl_target=1e-6) as engine:
            decode = engine.core.runner.decode

            def counted(chunks: Any) -> Any:
                nonlocal calls
                calls += bool(chunks)
                return decode(chunks)

            monkeypatch.setattr(engine.core.runner, "decode", counted)
            for name, parts in asked.items():
                engine.add(name, parts, 24)
                engine.step()
                if alone:
                    engine.run()
            return engine.core.scheduler.one_batch, calls, dict(engine.run())

    one, few, together = answers(alone=False)
    assert (one, answers(alone=True)[2]) == (63, together)
    monkeypatch.setattr(loading, "open_token_rows", lambda *_: None)
    two, more, apart = answers(alone=False)
    assert (two, apart) == (0, together)
    assert few < more
