"""The memory report, from lines as llama.cpp writes them."""

from __future__ import annotations

from memory_fakes import GIB, MIB, gpu, ram

from server.memory.estimate.inputs import PlannedPart
from server.memory.measured.report import format_report, make_report, measured_parts, tower_backend
from server.messages import FitDecision, MemoryPart

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


def mib(lines: list[str]) -> dict[tuple[str, str], float]:
    return {key: round(size / MIB, 2) for key, size in measured_parts(lines).items()}


def test_every_buffer_goes_to_its_part_and_device() -> None:
    assert mib(LINES) == {
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
    assert tower_backend(LINES) == "CUDA0"


def test_weights_that_were_rearranged_are_counted_once() -> None:
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =    92.00 MiB",
        "load_tensors:   CPU_REPACK model buffer size =    60.00 MiB",
    ]
    found = measured_parts(lines, 110 * MIB)
    assert found == {("weights", "CPU"): 110 * MIB}, "the mapped range need not be the whole file"
    gpu_too = [*lines, "load_tensors:        CUDA0 model buffer size =    30.00 MiB"]
    assert measured_parts(gpu_too, 110 * MIB)["weights", "CPU"] == 80 * MIB
    half = [lines[0], "load_tensors: RPC0 model buffer size =    30.00 MiB"]
    assert measured_parts(half, 110 * MIB)["weights", "CPU"] == 80 * MIB, "their range is a hole"
    assert measured_parts(half, 130 * MIB)["weights", "CPU"] == 92 * MIB
    read = [line.replace("CPU_Mapped", "CPU") for line in lines]
    assert mib(read) == {("weights", "CPU"): 152.0}, "read into memory, both are ours"


def test_planned_and_measured_stand_side_by_side() -> None:
    planned = [
        PlannedPart("weights", "CUDA0", 3820 * MIB),
        PlannedPart("compute", "CUDA0", 160 * MIB, estimated=True),
        PlannedPart("image_cache", "CPU", 256 * MIB),
    ]
    decisions = (FitDecision("--ctx-size", "8192", "of 16384"),)
    devices = [gpu(0, 10 * GIB, used=4 * GIB), ram()]
    report = make_report(LINES, devices, planned, 33, decisions=decisions)
    assert report.parts[:3] == (
        MemoryPart("weights", "CUDA0", 3820 * MIB, round(3820.94 * MIB)),
        MemoryPart("compute", "CUDA0", 160 * MIB, round(164.01 * MIB), estimated=True),
        MemoryPart("image_cache", "CPU", 256 * MIB, None),
    )
    assert all(part.predicted is None for part in report.parts[3:])
    assert len(report.parts) == 10, "what was not planned is reported all the same"
    assert (report.layers_offloaded, report.layers) == (32, 33)
    assert (report.encoder, report.decisions) == ("CUDA0", decisions)


def test_without_a_gpu_nothing_is_offloaded_and_the_ram_is_named() -> None:
    lines = ["load_tensors:   CPU_Mapped model buffer size =    92.10 MiB"]
    report = make_report(lines, [ram(3 * MIB)], [], 31)
    assert report.parts == (MemoryPart("weights", "CPU", None, round(92.10 * MIB)),)
    assert (report.layers_offloaded, report.layers, report.encoder) == (0, 31, "")
    table = "\n".join(format_report(report))
    assert "CPU (a processor): 3 MiB of 2048 MiB RAM free" in table
    assert "(no GPU: everything is in the RAM)" in table
    assert "layers offloaded: 0 of 31" in table


def test_the_table_is_one_line_a_part() -> None:
    planned = [PlannedPart("compute", "CUDA0", 160 * MIB, estimated=True)]
    planned += [PlannedPart("image_cache", "CPU", 256 * MIB)]
    report = make_report(LINES, [gpu(0, 4 * GIB, used=MIB, total=8 * GIB), ram()], planned, 33)
    lines = format_report(report)
    assert lines[0].split() == ["part", "device", "planned", "measured", "MiB"]
    assert lines[1].split() == ["compute", "CUDA0", "160.0", "164.0", "estimated"]
    assert lines[2].split()[:4] == ["image_cache", "CPU", "256.0", "-"]
    assert lines[2].endswith("at most; fills with use")
    assert "CUDA0 (a card): 4096 MiB of 8192 MiB VRAM free, 1 MiB used by the engine" in lines
    assert not any("no GPU" in line for line in lines)
    assert lines[-1] == "layers offloaded: 32 of 33, vision tower on CUDA0"
