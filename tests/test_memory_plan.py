"""The plan's sums against what llama.cpp allocates and against sums worked by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import StartupError
from server.gguf.cursor import ArraySource, MalformedError
from server.gguf.header import parse_header
from server.gguf.model_header import (
    LONGEST,
    ModelHeader,
    TensorInfo,
    model_header,
    read_model_header,
    read_tower_header,
    tower_header,
)
from server.hub.catalogue import models_dir
from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.plan import plan_memory
from server.memory.estimate.vision import image_tokens

GIB = 1 << 30
FILES = tuple(sorted((models_dir() / "demo").glob("*q8_0.gguf")))
RAM = PlanDevice("CPU", "cpu", 16 * GIB, 16 * GIB)


def test_the_demo_model_to_the_byte() -> None:
    """llama.cpp 0.3.36 reports 2.62, 30.00 and 0.25 MiB for the demo in 8192 cells."""
    folder = models_dir() / "demo"
    model = read_model_header(folder / "llava-demo-q8_0.gguf")
    tower = read_tower_header(folder / "llava-demo-mmproj-f16.gguf")
    plan = plan_memory(model, tower, PlanSettings((RAM,)))
    # 5 layers, 3 heads of 64, keys and values of 2 bytes
    assert plan.of("kv_cache") == 8192 * 5 * 2 * 192 * 2
    assert round(plan.of("weights") / 2**20, 2) == 2.62
    assert plan.of("output") == 68 * model.n_vocab * 4
    assert plan.layers == 6
    assert plan.layers_offloaded == 0
    assert plan.on("CPU") <= RAM.free


DEMO = (models_dir() / "demo" / "llava-demo-q8_0.gguf").read_bytes()
TOWER = (models_dir() / "demo" / "llava-demo-mmproj-f16.gguf").read_bytes()


@given(
    st.sampled_from([DEMO, TOWER]),
    st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=8)), max_size=6),
)
@settings(max_examples=150)
def test_damaged_headers_are_refused_or_planned(
    content: bytes, damages: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(content)
    for place, bytes_there in damages:
        damaged[place : place + len(bytes_there)] = bytes_there
    source = ArraySource(np.frombuffer(bytes(damaged), np.uint8))
    try:
        header = parse_header(source, raw=False, longest=LONGEST)
        if content is DEMO:
            model, tower = model_header("damaged", [header]), None
        else:
            model, tower = read_model_header(FILES[0]), tower_header("damaged", header)
    except (MalformedError, StartupError):
        return
    plan = plan_memory(model, tower, PlanSettings((RAM,)))
    assert all(part.bytes >= 0 for part in plan.parts)
    if tower is not None:
        assert image_tokens(tower, PlanSettings((RAM,))) >= 1


def test_a_model_without_an_output_matrix_has_its_embeddings_twice_on_a_gpu() -> None:
    """262,144 x 2 bytes of embeddings; a 64 x 64 matrix and a norm in its one layer."""
    keys = {"block_count": 1, "embedding_length": 64, "attention.head_count": 1}
    metadata = {f"llama.{key}": value for key, value in keys.items()}
    tensors = (
        TensorInfo("token_embd.weight", (64, 4096), "F16", 524288),
        TensorInfo("blk.0.attn_q.weight", (64, 64), "F16", 8192),
        TensorInfo("blk.0.attn_norm.weight", (64,), "F32", 256),
        TensorInfo("output_norm.weight", (64,), "F32", 256),
    )
    model = ModelHeader("tied", {"general.architecture": "llama", **metadata}, tensors)
    gpu = PlanDevice("CUDA0", "gpu", GIB, GIB)
    plan = plan_memory(model, None, PlanSettings((gpu, RAM)))
    weights = {part.device: part.bytes for part in plan.parts if part.part == "weights"}
    assert weights == {"CPU": 524288, "CUDA0": 524288 + 8192 + 256 + 256}
    alone = plan_memory(model, None, PlanSettings((RAM,)))
    assert alone.of("weights") == 524288 + 8192 + 256 + 256
    half = plan_memory(model, None, PlanSettings((gpu, RAM), n_gpu_layers=1))
    assert {p.device: p.bytes for p in half.parts if p.part == "weights"} == {
        "CPU": 524288 + 8192 + 256,
        "CUDA0": 524288 + 256,
    }
