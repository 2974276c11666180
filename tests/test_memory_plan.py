"""The plan's sums against what llama.cpp allocates and against sums worked by hand."""

from __future__ import annotations

from server.catalogue import models_dir
from server.memory.open_header import read_model_header, read_tower_header
from server.memory.plan import plan_memory
from server.memory.settings import PlanDevice, PlanSettings

GIB = 1 << 30
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
    assert not plan.overflow((RAM,))
