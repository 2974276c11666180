"""Synthetic models: llama.cpp loads what the script writes, at the size it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from mtmd import open_mtmd
from tower_files import picture

from scripts.make_synthetic_model import main
from scripts.synthetic.files import write_mmproj, write_pair
from scripts.synthetic.shapes import PRESETS, LlmShape, ModelShape, clip_b
from scripts.synthetic.weights import QUANTS, WeightPool
from server.engine.llama.log import LlamaLog
from server.engine.llama.model import Model
from server.mmproj.facts import read_facts


@pytest.mark.parametrize("quant", ["f16", "q8_0", "q4_k", "q6_k"])
def test_llama_loads_the_language_model(quant: str, tmp_path: Path) -> None:
    """With rows of 256 numbers, so that blocks of every format fit."""
    llm = LlmShape(256, 1, 4, 2, 256, 512, 64)
    shape = ModelShape(llm, PRESETS["tiny"].tower)
    path, _ = write_pair(tmp_path, "m", shape, quant=QUANTS[quant])
    log = LlamaLog()
    model = Model(path, 0)
    try:
        assert (model.n_embd, model.n_layer, model.n_vocab) == (256, 1, 512)
        facts = model.facts(64, 64)
        assert facts.n_params == llm.n_params
        assert facts.chat_template is not None
        text = "USER: caf\u00e9 \U0001f408 bada?"
        tokens = model.tokenize(text, add_special=False)
        written = b"".join(model.piece(token) for token in tokens).decode()
        assert written.strip() == text
        assert len(model.tokenize("bada", add_special=False)) == 1
    finally:
        model.close()
        log.stop_keeping()


@pytest.mark.parametrize("kind", [kind for kind in QUANTS if kind != "f32"])
def test_weights_have_the_spread_they_should(kind: str) -> None:
    pool = WeightPool(QUANTS[kind], 0)
    stored = pool.matrix((64, 1024), 1.0)
    assert stored.nbytes == pool.n_bytes((64, 1024))
    rows = stored.view(np.float16) if kind == "f16" else stored
    weights = dequantize(rows.reshape(64, -1), QUANTS[kind])
    assert weights.shape == (64, 1024)
    assert weights.std() == pytest.approx(1 / 32, rel=0.1)
    assert len(np.unique(weights.round(6), axis=0)) == 64  # no row twice


def test_clip_b_for_any_width(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    shape = ModelShape(PRESETS["tiny"].llm, clip_b(64)).with_layers(None, 2)
    write_mmproj(path, "clip", shape, GGMLQuantizationType.Q8_0, 0)
    assert read_facts(path).n_out == 64
    with open_mtmd(tmp_path) as mtmd:
        rows = mtmd.encode(path, picture(224))
    assert rows.shape == (196, 64)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llava-1.5-7b", 6.74), ("llava-1.5-13b", 13.02), ("llava-1.6-mistral-7b", 7.24)],
)
def test_presets_have_the_real_sizes(name: str, billions: float) -> None:
    """The counts that the models' cards give; 64 more words for LLaVA's own make little odds."""
    assert PRESETS[name].llm.n_params / 1e9 == pytest.approx(billions, rel=0.005)
    assert PRESETS[name].tower.n_out == PRESETS[name].llm.width


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--out", str(tmp_path), "--layers", "1", "--quant", "q8_0"]) == 0
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["mmproj-tiny-q8_0.gguf", "tiny-q8_0.gguf"]
    assert str(tmp_path / written[1]) in capsys.readouterr().out


def test_the_command_writes_other_kinds(tmp_path: Path) -> None:
    assert main(["kind-gemma3", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gemma3.gguf", "mmproj-gemma3.gguf"]
    assert read_facts(tmp_path / "mmproj-gemma3.gguf").projector_type == "gemma3"
