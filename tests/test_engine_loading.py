"""Loading the demo model in this process: what the settings say is what llama.cpp reports."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_sums
import pytest
from live import DEMO, ROOT

from server.engine.llama import model as bindings
from server.engine.llama.context import Context
from server.engine.llama.ggml import Cuts, device_handle
from server.engine.llama.model import Model
from server.engine.loading import load as loading
from server.engine.loading import loader
from server.engine.loading.load import LoadedEngine, load
from server.engine.loading.loader import Exhausted, exhausted
from server.engine.vision.mtmd_tower import MtmdTower
from server.errors import ConfigError, OutOfMemory, StartupError
from server.gguf import file as gguf_file
from server.gguf.cursor import ArraySource
from server.gguf.header import GGUFHeader, parse_header
from server.memory.measured.report import measured_parts
from server.memory.measured.system import read_process
from server.messages import EngineConfig, EngineProgress, ImageInput, MemoryOptions


@contextmanager
def loaded(folder: Path, *, ctx_size: int | None = 512, **settings: Any) -> Iterator[LoadedEngine]:
    """The demo as the engine process loads it; unknown settings are those of memory."""
    names = ("parallel", "model", "mmproj", "batch_size")
    own = {name: settings.pop(name) for name in names if name in settings}
    config = EngineConfig(
        model=own.get("model", DEMO / "llava-demo-q8_0.gguf"),
        mmproj=own.get("mmproj", DEMO / "llava-demo-mmproj-f16.gguf"),
        cache_dir=folder,
        ctx_size=ctx_size,
        parallel=own.get("parallel", 1),
        threads=1,
        batch_size=own.get("batch_size", 128),
        memory=MemoryOptions(**settings),
    )
    stages: list[str] = []

    def report(progress: EngineProgress) -> None:
        if progress.stage not in stages:
            stages.append(progress.stage)

    engine = load(config, report, lambda _done: None)
    try:
        assert stages == ["weights", "vision tower", "context", "warm-up"]
        yield engine
    finally:
        engine.close()


def said(engine: LoadedEngine, text: str) -> bool:
    tower = engine.handles.tower
    lines = (*engine.handles.lines, *(tower.lines if isinstance(tower, MtmdTower) else ()))
    return any(text in line for line in lines)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_defaults_map_the_file_and_let_llama_cpp_choose_attention(cache: Path) -> None:
    with loaded(cache) as engine:
        assert said(engine, "CPU_Mapped model buffer size")
        assert said(engine, "flash_attn            = auto")
        assert said(engine, "K (f16)")
        assert said(engine, "V (f16)")
        report = engine.ready.memory
        assert report.encoder == "CPU"
        assert (report.layers, report.layers_offloaded) == (6, 0)
        measured = {part.part: part.measured for part in report.parts}
        assert measured.pop("image_cache") is None
        assert measured.pop("prompt_cache") is None
        assert all(measured.values()), "every part that was planned is measured too"
        assert all(part.predicted for part in report.parts), "and the other way round"
        (kv,) = (part for part in report.parts if part.part == "kv_cache")
        assert kv.predicted == pytest.approx(kv.measured, abs=0.01 * 2**20), "as exact as the log"


def test_cache_types_and_flash_attention_arrive(cache: Path) -> None:
    with loaded(cache, cache_type_k="q8_0", cache_type_v="q4_0", flash_attn=True) as engine:
        assert said(engine, "K (q8_0)")
        assert said(engine, "V (q4_0)")
        assert said(engine, "flash_attn            = enabled")
        assert said(engine, "flash attention is enabled")
    with loaded(cache, cache_type_k="bf16", cache_type_v="f32", flash_attn=False) as engine:
        assert said(engine, "K (bf16)")
        assert said(engine, "V (f32)")
        assert said(engine, "flash_attn            = disabled")


@pytest.mark.parametrize(("cells", "batch"), [(1, 512), (64, 512), (300, 512), (1000, 2048)])
def test_a_context_of_any_size_starts_and_is_rounded_up(
    cells: int, batch: int, cache: Path
) -> None:
    with loaded(cache, ctx_size=cells, batch_size=batch) as engine:
        rounded = -(-cells // 256) * 256
        assert (engine.ready.model.n_ctx, engine.ready.model.n_ctx_seq) == (rounded, rounded)


def test_paths_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    model, mmproj = folder / os.fsdecode(b"m\xff.gguf"), folder / os.fsdecode(b"p\xff.gguf")
    shutil.copy(DEMO / "llava-demo-q8_0.gguf", model)
    shutil.copy(DEMO / "llava-demo-mmproj-f16.gguf", mmproj)
    with loaded(folder / "cache", model=model, mmproj=mmproj) as engine:
        assert engine.ready.vision is not None


def test_each_file_s_header_is_parsed_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    def counted(source: ArraySource, **how: Any) -> GGUFHeader:
        parsed.append(source.size)
        return parse_header(source, **how)

    monkeypatch.setattr(gguf_file, "parse_header", counted)
    gguf_file._headers.clear()
    with loaded(cache):
        for name in ("llava-demo-q8_0.gguf", "llava-demo-mmproj-f16.gguf"):
            assert parsed.count((DEMO / name).stat().st_size) == 1, name


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(DEMO / "llava-demo-q8_0.gguf", path)
    data = path.read_bytes()
    for _ in range(2):
        assert gguf_file.read_header(path).metadata["general.architecture"].value == "llama"
        path.write_bytes(data.replace(b"llama", b"lhama", 1))
        assert gguf_file.read_header(path).metadata["general.architecture"].value == "lhama"
        path.write_bytes(data)


def test_the_file_is_read_into_memory_without_mmap(cache: Path) -> None:
    with loaded(cache, mmap=False) as engine:
        assert said(engine, "load_mode = none")
        assert not said(engine, "CPU_Mapped model buffer size")


def test_mlock_keeps_the_model_in_the_ram(cache: Path) -> None:
    with loaded(cache, mlock=True) as engine:
        assert said(engine, "load_mode = mmap+mlock")
        locked = Path("/proc/self/status").read_text().partition("VmLck:")[2].split()[0]
        assert int(locked) > 0 or said(engine, "failed to mlock"), "it says so where it may not"
    with loaded(cache, mlock=True, mmap=False) as engine:
        assert said(engine, "load_mode = mlock")


def test_context_and_slots_arrive(cache: Path) -> None:
    with loaded(cache, ctx_size=768, parallel=3) as engine:
        assert engine.ready.model.n_ctx == 768
        assert engine.ready.parallel == engine.core.scheduler.max_running == 3
        assert said(engine, "n_seq_max             = 67")
    with loaded(cache, ctx_size=0) as engine:
        assert engine.ready.model.n_ctx == engine.ready.model.n_ctx_train
    with loaded(cache, ctx_size=None, parallel=None) as engine:
        assert (engine.ready.model.n_ctx, engine.ready.parallel) == (8192, 4)
        settings = {decision.setting for decision in engine.ready.memory.decisions}
        assert {"--ctx-size", "--parallel", "--n-gpu-layers"} <= settings


def test_which_gpus_and_how_much_of_each_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here: what llama.cpp is handed has to do."""
    handed: list[Any] = []
    real = bindings.llama_cpp.llama_model_load_from_file

    def spy(path: bytes, params: Any) -> Any:
        shares = params.tensor_split[:2] if params.tensor_split else None
        found = ctypes.cast(params.devices, ctypes.POINTER(ctypes.c_void_p))
        devices = [found[0], found[1]] if params.devices else None
        handed.append((params.n_gpu_layers, params.split_mode, devices, shares))
        # Whatever llama.cpp makes of a processor as a GPU: it is not asked.
        params.devices = None
        return real(path, params)

    monkeypatch.setattr(bindings.llama_cpp, "llama_model_load_from_file", spy)
    path = DEMO / "llava-demo-q8_0.gguf"
    Model(path, 3, tensor_split=(2.0, 1.0)).close()
    cpu = device_handle("CPU")
    assert cpu
    Model(path, -1, devices=[cpu]).close()
    assert handed == [(3, 1, None, [2.0, 1.0]), (-1, 1, [cpu, None], None)]


def test_no_device_is_no_gpu(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(loader, "Model", lambda *_, **options: handed.append(options["devices"]))
    for settings in ({}, {"device": ("none",)}, {"n_gpu_layers": 0}):
        with pytest.raises(AttributeError), loaded(cache, **settings):
            pass
    assert handed == [[], [], []]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_gpu_layers": 4}, "--n-gpu-layers: there is no GPU that this llama.cpp can use"),
        ({"mmproj_offload": True}, "--mmproj-offload gpu: there is no GPU"),
        ({"tensor_split": (1.0, 1.0)}, "--tensor-split: there is no GPU"),
        ({"main_gpu": 0}, "--main-gpu: there is no GPU"),
        ({"cache_type_v": "q8_0", "flash_attn": False}, "quantized values need flash attention"),
        ({"mmproj_offload": False, "mmproj": None}, "no vision tower is loaded"),
        ({"parallel": 128}, "--parallel 128: must be less than --batch-size (128)"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    settings: dict[str, Any], words: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "Loader", None)
    with pytest.raises(ConfigError) as caught, loaded(cache, **settings):
        pass
    assert words in caught.value.message


def test_a_context_that_cannot_fit_is_refused_with_figures(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "Loader", None)
    with pytest.raises(OutOfMemory) as caught, loaded(cache, ctx_size=1 << 30):
        pass
    assert (
        "the model does not fit, even with a KV cache in q8_0: CPU would need 2"
        in caught.value.message
    )
    assert "lower --ctx-size, --parallel or leave it on auto" in caught.value.message


RETRY = """
import resource, sys
from pathlib import Path
from server.engine.loading.load import load
from server.logs import configure_logging
from server.messages import EngineConfig

configure_logging("info")
demo = Path("models/demo")
config = EngineConfig(demo / "llava-demo-q8_0.gguf", demo / "llava-demo-mmproj-f16.gguf",
                      Path(sys.argv[1]), None, 64, 1)
status = Path("/proc/self/status").read_text()
data = int(status.partition("VmData:")[2].split()[0]) * 1024
limit = data + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
engine = load(config, lambda _: None, lambda _: None)
print("cache", engine.ready.memory.decisions[3].value, engine.ready.model.n_ctx)
engine.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds memory on Linux alone")
def test_where_memory_runs_out_all_the_same_a_smaller_plan_is_tried_once(cache: Path) -> None:
    """A limit that the plan cannot know: 480 MiB of f16 cells are refused, 255 of q8_0 are not."""
    command = [sys.executable, "-c", RETRY, str(cache)]
    once = subprocess.run([*command, "740"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert once.stdout == "cache q8_0 131072\n", once.stderr
    assert "ran out of the RAM" in once.stderr
    assert once.stderr.count("LOADING ONCE MORE WITH A SMALLER PLAN") == 1
    never = subprocess.run([*command, "500"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert never.returncode != 0
    assert never.stderr.count("LOADING ONCE MORE") == 1, "not a third time"
    assert "OutOfMemory: llama.cpp ran out of the RAM" in never.stderr


def test_a_failure_for_another_reason_is_not_tried_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((DEMO / "llava-demo-q8_0.gguf").read_bytes()[:1_000_000])
    config = EngineConfig(broken, None, cache, 512, 1, 1)
    with pytest.raises(StartupError) as caught:
        load(config, lambda _progress: None, lambda _done: None)
    assert not isinstance(caught.value, OutOfMemory)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("x: allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory", Exhausted.GPU),
        ("alloc_tensor_range: failed to allocate CUDA0 buffer of size 5", Exhausted.GPU),
        ("llama_model_load: error loading model: unable to allocate Vulkan0 buffer", Exhausted.GPU),
        ("ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", Exhausted.GPU),
        ("alloc_tensor_range: failed to allocate CUDA_Host buffer of size 5", Exhausted.RAM),
        ("unable to allocate CPU_REPACK buffer", Exhausted.RAM),
        ("ggml_aligned_malloc: insufficient memory (attempted to allocate 9 MB)", Exhausted.RAM),
        ("output_reserve: failed to allocate output buffer of size 1.00 MiB", Exhausted.RAM),
        ("error loading model: std::bad_alloc", Exhausted.RAM),
        ("error loading model: tensor data is not within the file bounds", None),
        ("sched_reserve: CUDA0 compute buffer size = 164.01 MiB", None),
    ],
)
def test_llama_cpp_s_words_for_too_little_memory(line: str, kind: Exhausted | None) -> None:
    assert exhausted(["load_tensors: fine", line]) is kind


def test_no_more_than_the_plan_says_is_touched_after_the_warm_up(cache: Path) -> None:
    """Twenty of the largest pictures: the process grows by the tower's buffers, and once only.

    On a CPU the warm-up has them reserved; the system gives their pages when they are used.
    """
    with loaded(cache, ctx_size=2048) as engine:
        handles = engine.handles
        assert handles.tower is not None
        assert handles.vision is not None
        sizes = []
        for shade in range(20):
            found = read_process()
            assert found is not None
            sizes.append(found.anonymous)
            image = square(handles.vision.image_size, shade)
            (rows,) = handles.tower.encode([image])
            assert len(rows) == 64
        reserved = sum(
            part.measured or 0
            for part in engine.ready.memory.parts
            if part.part == "vision_compute"
        )
        assert sizes[-1] - sizes[0] < reserved + 4 * 1024 * 1024
        assert sizes[-1] - sizes[1] < 4 * 1024 * 1024


def test_on_a_cpu_the_warm_up_computes_a_few_tokens_only(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full batch of a 7B takes a CPU half a minute, and its buffers are reserved without it."""
    batches, encodes = [], []
    decode, run = Context.decode, Cuts.run
    monkeypatch.setattr(
        Context, "decode", lambda self, batch: batches.append(batch.size) or decode(self, batch)
    )
    monkeypatch.setattr(
        Cuts, "run", lambda self, *work: (run(self, *work), encodes.append(self.ended))[0]
    )
    with loaded(cache, ctx_size=2048) as engine:
        assert engine.handles.config.batch_size == 128
        assert engine.core.scheduler.pace.speed > 0
    assert 0 < sum(batches) <= 24
    assert encodes == [True], "the largest picture was begun, and stopped"


def square(edge: int, shade: int) -> ImageInput:
    """A picture as the web process hands it over."""
    return ImageInput(str(shade), edge, edge, bytes([shade]) * (edge * edge * 3), edge, edge)


@pytest.mark.skipif(not llama_sums.available(), reason="no libstdc++ build of llama.cpp")
@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q4_0")])
def test_what_is_read_from_the_log_is_what_llama_cpp_sums_up(
    types: tuple[str, str], cache: Path
) -> None:
    with loaded(cache, mmap=False, cache_type_k=types[0], cache_type_v=types[1]) as engine:
        found = llama_sums.sums(engine.handles.context.handle)
        measured = measured_parts(engine.handles.lines)
    for part, kind in (("weights", "model"), ("kv_cache", "context"), ("compute", "compute")):
        logged = sum(size for (name, _), size in measured.items() if name == part)
        # Each line is rounded to a hundredth of a MiB; there are three at most.
        assert logged == pytest.approx(found[kind], abs=3 * 0.005 * 2**20), part


def changed(path: Path, name: str, skip: int, value: int, width: str) -> Path:
    """The demo model with the number ``skip`` bytes behind a name in its header replaced."""
    raw = bytearray((DEMO / "llava-demo-q8_0.gguf").read_bytes())
    text = name.encode()
    at = raw.index(struct.pack("<Q", len(text)) + text) + 8 + len(text) + skip
    struct.pack_into(width, raw, at, value)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("name", "skip", "value", "width", "words"),
    [
        # After a tensor's name stand its number of dimensions, and these.
        ("output_norm.weight", 4, 32, "<Q", "tensor 'output.weight' has offset"),
        ("blk.0.attn_q.weight", 12, 32, "<Q", "tensor 'blk.0.attn_k.weight' has offset"),
        ("token_embd.weight", 4, 0, "<Q", "tensor 'output_norm.weight' has offset"),
        # After a key stands its type, and the value.
        ("llama.feed_forward_length", 4, 64, "<I", "'blk.0.ffn_gate.weight' has wrong shape"),
        ("llama.block_count", 4, 50, "<I", "tensor 'blk.5.attn_norm.weight' not found"),
    ],
)
def test_tensors_of_wrong_shapes_are_refused_by_name(
    name: str, skip: int, value: int, width: str, words: str, cache: Path, tmp_path: Path
) -> None:
    model = changed(tmp_path / "hostile.gguf", name, skip, value, width)
    with pytest.raises(StartupError) as caught, loaded(cache, model=model, mmproj=None):
        pass
    assert words in caught.value.message
    assert "\n" not in caught.value.message
