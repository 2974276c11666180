"""Towers of other kinds: what is planned for them is what libmtmd allocates, or marked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from kinds import driven, noise

from scripts.synthetic.tiny import TINY, write_pair_of, write_tiny
from scripts.synthetic.vision_towers import VisionTower
from server.cache_types import CACHE_TYPES
from server.gguf.model_header import read_tower_header
from server.memory.estimate.inputs import PlanSettings
from server.memory.estimate.vision import compute_bytes, image_tokens, tower_parts
from server.messages import MemoryPart
from server.projectors import PROJECTORS, attends_both_ways, largest_grid, projector_of

MIB = 1 << 20
ROUNDING = 0.011 * MIB  # llama.cpp logs hundredths of a MiB
ALONE = PlanSettings(devices=())


def measured(model: Path, mmproj: Path) -> float:
    """Bytes that libmtmd logs for its own warm-up, with the picture size that it chooses."""
    wanted = {
        "model": str(model), "mmproj": str(mmproj), "n_ctx": 2048, "n_seq_max": 8, "n_batch": 64,
        "n_ubatch": 64, "type_k": 1, "type_v": 1, "flash_attn": True, "side": 64, "batch": 0,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "scripts.memory_check.measure", json.dumps(wanted)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: float = json.loads(done.stdout)["parts"]["vision_compute"]
    return found


def write_convnext(path: Path, width: int, dims: tuple[int, ...], depths: tuple[int, ...]) -> None:
    """A ConvNeXt V2 as libmtmd's projector ``yasa2`` (Reka Edge) has it."""
    draw = np.random.default_rng(0)
    writer = GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "yasa2")
    sizes = {"image_size": 256, "patch_size": 4, "embedding_length": dims[-1]}
    sizes |= {"feed_forward_length": 4 * dims[-1], "projection_dim": width, "block_count": 0}
    for key, value in (sizes | {"attention.head_count": 1}).items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])

    def add(name: str, *shape: int) -> None:
        values = draw.standard_normal(shape).astype(np.float32) / 8
        # ggml_conv_2d takes kernels of 16 bits.
        writer.add_tensor(name, values.astype(np.float16) if len(shape) == 4 else values)

    add("v.patch_embd.weight", dims[0], 3, 4, 4)
    for name in ("v.patch_embd.bias", "v.patch_ln.weight", "v.patch_ln.bias"):
        add(name, dims[0])
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        if stage:
            for name in ("ln.weight", "ln.bias"):
                add(f"v.stage.{stage}.down.{name}", dims[stage - 1])
            add(f"v.stage.{stage}.down.conv.weight", dim, dims[stage - 1], 2, 2)
            add(f"v.stage.{stage}.down.conv.bias", dim)
        for block in range(depth):
            prefix = f"v.stage.{stage}.blk.{block}"
            add(f"{prefix}.dw.weight", dim, 1, 7, 7)
            add(f"{prefix}.pw1.weight", 4 * dim, dim)
            add(f"{prefix}.pw2.weight", dim, 4 * dim)
            for name in ("dw.bias", "ln.weight", "ln.bias", "pw2.bias"):
                add(f"{prefix}.{name}", dim)
            for name in ("pw1.bias", "grn.weight", "grn.bias"):
                add(f"{prefix}.{name}", 4 * dim)
    for name, shape in (("mm.0", (width, dims[-1])), ("mm.2", (width, width))):
        add(f"{name}.weight", *shape)
        add(f"{name}.bias", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    "changes",
    [{}, {"width": 64, "heads": 4, "feed_forward": 48}, {"patch_size": 16, "feed_forward": 512}],
    ids=["tiny", "wide", "large patches"],
)
def test_gemma_4_s_tower_is_planned_to_the_byte(changes: dict[str, int], tmp_path: Path) -> None:
    pair = TINY["gemma4"]
    assert isinstance(pair.tower, VisionTower)
    pair = replace(pair, tower=replace(pair.tower, **changes))  # type: ignore[arg-type]
    model, mmproj = write_pair_of(tmp_path, "gemma4", pair)
    tower = read_tower_header(mmproj)
    # libmtmd warms it up with 256 tokens (set_warmup_n_tokens).
    planned = compute_bytes(tower, replace(ALONE, image_max_tokens=256))
    assert planned == pytest.approx(measured(model, mmproj), abs=ROUNDING)


@pytest.mark.parametrize(
    ("dims", "depths"),
    [((16, 32, 64, 128), (1, 1, 2, 1)), ((32, 32, 32, 32), (3, 1, 1, 4)), ((8, 64), (1, 2))],
)
def test_a_convnext_is_planned_to_the_byte(
    dims: tuple[int, ...], depths: tuple[int, ...], tmp_path: Path
) -> None:
    model, _ = write_tiny(tmp_path, "llava-1.5")
    mmproj = tmp_path / "convnext.gguf"
    write_convnext(mmproj, 64, dims, depths)
    tower = read_tower_header(mmproj)
    assert image_tokens(tower, ALONE) == 64
    assert compute_bytes(tower, ALONE) == pytest.approx(measured(model, mmproj), abs=ROUNDING)
    assert not any(part.estimated for part in tower_parts(tower, ALONE))


def test_what_is_not_followed_tensor_by_tensor_is_marked(tmp_path: Path) -> None:
    for kind in ("qwen2vl", "idefics3", "gemma3"):
        tower = read_tower_header(write_tiny(tmp_path, kind)[1])
        (part,) = (p for p in tower_parts(tower, ALONE) if p.part == "vision_compute")
        assert part.estimated, kind


def test_the_mask_of_windowed_attention_is_planned(tmp_path: Path) -> None:
    """Qwen2.5-VL's mask over all patches took 410 of 429 MiB with 46 x 46 tokens."""
    model, mmproj = write_tiny(tmp_path, "qwen2.5vl")
    planned = compute_bytes(read_tower_header(mmproj), replace(ALONE, image_max_tokens=46 * 46))
    assert planned == pytest.approx(measured(model, mmproj), rel=0.05)


def test_a_served_gemma_4_takes_what_was_planned(tmp_path: Path) -> None:
    files = write_tiny(tmp_path, "gemma4")
    with driven(*files, tmp_path, image_max_side=4096) as engine:
        parts: dict[str, MemoryPart] = {p.part: p for p in engine.engine.ready.memory.parts}
        compute = parts["compute"]
        assert compute.predicted == pytest.approx(compute.measured, abs=ROUNDING)
        # What libmtmd logs is of a picture of 256 tokens, and pictures of 1120 are let in.
        assert parts["vision_compute"].measured is None
        assert engine.engine.ready.vision is not None
        assert engine.engine.ready.vision.largest_picture == 1120
        # 28 x 40 tokens; squares have 33 x 33.
        engine.add("wide", ["USER: ", noise("a", 1400, 2000), " ASSISTANT:"], 2)
        assert len(engine.run()["wide"]) == 2


@pytest.mark.parametrize(
    ("most", "grid"), [(4096, (64, 64)), (1120, (32, 35)), (1, (1, 1)), (7, (2, 3)), (64, (8, 8))]
)
def test_the_largest_grid(most: int, grid: tuple[int, int]) -> None:
    assert largest_grid(most) == grid


def test_the_table_of_projectors() -> None:
    assert {name for name, one in PROJECTORS.items() if one.llava} == {
        "mlp", "mlp_norm", "ldp", "ldpv2",
    }  # fmt: skip
    assert attends_both_ways("gemma3", 2560)
    assert attends_both_ways("gemma4v", 3840)
    assert not attends_both_ways("gemma4v", 2560), "E4B is causal (mtmd_decode_use_non_causal)"
    assert not attends_both_ways("mlp", 4096)
    assert projector_of("unheard-of") == projector_of("janus_pro")


def test_cache_types_are_ggml_s() -> None:
    for name, kind in CACHE_TYPES.items():
        number = GGMLQuantizationType[name.upper()]
        assert (kind.number, kind.n_values, kind.n_bytes) == (number, *GGML_QUANT_SIZES[number])
