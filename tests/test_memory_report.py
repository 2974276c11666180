"""The memory report, read from lines as llama.cpp writes them."""

from __future__ import annotations

from server.memory.report import format_report, read_report, tower_backend
from server.messages import DeviceMemory, MemoryPart

MIB = 1024 * 1024
LINES = """\
load_tensors: offloading output layer to GPU
load_tensors: offloading 31 repeating layers to GPU
load_tensors: offloaded 32/33 layers to GPU
load_tensors:   CPU_Mapped model buffer size =    70.31 MiB
load_tensors:   CPU_Mapped model buffer size =     1.69 MiB
load_tensors:        CUDA0 model buffer size =  3820.94 MiB
clip_ctx: CLIP using CUDA0 backend
load_hparams: model size:         595.49 MiB
load_hparams: metadata size:      0.14 MiB
reserve_compute_meta:      CUDA0 compute buffer size =    32.89 MiB
reserve_compute_meta:      CUDA0 compute buffer size =    21.00 MiB
reserve_compute_meta:        CPU compute buffer size =     0.16 MiB
llama_context:  CUDA_Host  output buffer size =     0.49 MiB
llama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   256.00 MiB
sched_reserve:      CUDA0 compute buffer size =   164.01 MiB
sched_reserve:  CUDA_Host compute buffer size =    12.01 MiB
""".splitlines()
GPU = DeviceMemory("CUDA0", "NVIDIA H200", "gpu", 100 * MIB, 200 * MIB)


def test_every_buffer_goes_to_its_part_and_device() -> None:
    report = read_report(LINES, [GPU], 33)
    sizes = {(part.part, part.device): part.bytes / MIB for part in report.parts}
    assert {key: round(value, 2) for key, value in sizes.items()} == {
        ("weights", "CPU"): 72.0,
        ("weights", "CUDA0"): 3820.94,
        ("vision_encoder", "CUDA0"): 595.49,
        ("vision_compute", "CUDA0"): 21.0,
        ("vision_compute", "CPU"): 0.16,
        ("output", "CPU"): 0.49,
        ("kv_cache", "CUDA0"): 1280.0,
        ("compute", "CUDA0"): 164.01,
        ("compute", "CPU"): 12.01,
    }
    assert (report.layers_offloaded, report.layers) == (32, 33)
    assert tower_backend(LINES) == "CUDA0"


def test_without_a_gpu_nothing_is_offloaded_and_the_ram_is_named() -> None:
    ram = DeviceMemory("CPU", "some chip", "cpu", 3 * MIB, 4 * MIB)
    lines = ["load_tensors:   CPU_Mapped model buffer size =    92.10 MiB"]
    report = read_report(lines, [ram], 31)
    assert report.parts == (MemoryPart("weights", "CPU", round(92.10 * MIB)),)
    assert (report.layers_offloaded, report.layers) == (0, 31)
    table = "\n".join(format_report(report))
    assert "3 MiB of 4 MiB RAM free" in table
    assert "layers offloaded: 0 of 31" in table
