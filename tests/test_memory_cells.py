"""Cells and states of other architectures against what llama.cpp allocates for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.memory_check.architectures import SETTINGS, compare
from server.gguf.model_header import ModelHeader
from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.kv_cache import attends, layer_bytes, recurrent, slides

RAM = PlanDevice("CPU", "cpu", 1 << 40, 1 << 40)
HERE = PlanSettings((RAM,), ctx_size=4096, n_seq_max=2, swa_full=False)


@pytest.mark.parametrize(
    "name",
    ["gemma3", "gemma3n", "deepseek2", "gpt-oss", "granitehybrid", "lfm2", "mamba2", "qwen3next"],
)
def test_as_llama_cpp_allocates_it(name: str, tmp_path: Path) -> None:
    """One of each kind; all 100 by ``python -m scripts.memory_check.architectures``."""
    predicted, allocated, why = compare(name, SETTINGS[1], tmp_path)
    assert allocated is not None, why
    # llama.cpp prints hundredths of a mebibyte
    assert predicted == pytest.approx(allocated, abs=2 * 0.01 * 2**20)


def header(name: str, **keys: object) -> ModelHeader:
    """A header of metadata alone."""
    metadata = {f"{name}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return ModelHeader("x", {"general.architecture": name, **metadata}, ())


GEMMA = header(
    "gemma3", block_count=12, embedding_length=256, attention__head_count=4,
    attention__head_count_kv=2, attention__key_length=64, attention__value_length=64,
    attention__sliding_window=512,
)  # fmt: skip


def test_sliding_windows_by_hand() -> None:
    """Every sixth layer sees all: 2 of 12; a cell is 2 x 2 heads of 64 numbers of 2 bytes."""
    assert [index for index, slide in enumerate(slides(GEMMA)) if not slide] == [5, 11]
    cell = 2 * 2 * 64 * 2
    # windows of both sequences and one more batch, rounded up to 256 cells
    window = 2 * 512 + 512
    assert layer_bytes(GEMMA, HERE)[:6] == [window * cell] * 5 + [4096 * cell]
    assert layer_bytes(GEMMA, replace(HERE, swa_full=True)) == [4096 * cell] * 12


def test_quantized_cells_by_hand() -> None:
    """q8_0 keeps 32 numbers in 34 bytes, q4_0 in 18."""
    model = header("llama", block_count=1, embedding_length=128, attention__head_count=1)
    found = layer_bytes(model, replace(HERE, cache_type_k="q8_0", cache_type_v="q4_0"))
    assert found == [4096 * (4 * 34 + 4 * 18)]


def test_heads_may_differ_by_layer() -> None:
    model = header(
        "deci", block_count=2, embedding_length=128, attention__head_count=[2, 2],
        attention__head_count_kv=[2, 0],
    )  # fmt: skip
    assert layer_bytes(model, HERE) == [4096 * 2 * 128 * 2, 0]


def test_a_hybrid_keeps_cells_or_a_state() -> None:
    model = header(
        "jamba", block_count=3, embedding_length=128, attention__head_count=2,
        attention__head_count_kv=[0, 2, 0], ssm__conv_kernel=4, ssm__inner_size=256,
        ssm__state_size=16,
    )  # fmt: skip
    assert recurrent(model) == [True, False, True]
    assert attends(model) == [False, True, False]
    state = 2 * 4 * (3 * 256 + 16 * 256)
    assert layer_bytes(model, HERE) == [state, 4096 * 2 * 128 * 2, state]


def test_absurd_metadata_does_no_harm() -> None:
    model = header(
        "llama", block_count=-3, embedding_length="many", attention__head_count=[None],
        attention__sliding_window=2**80,
    )  # fmt: skip
    assert layer_bytes(model, HERE) == []
    model = header("llama", block_count=1, embedding_length=8, attention__head_count=[None])
    assert layer_bytes(model, HERE) == [0]
    model = header("gemma3", block_count=10**9, embedding_length=0, attention__head_count=0)
    assert sum(layer_bytes(model, HERE)) == 0
