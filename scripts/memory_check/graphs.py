"""Weights and compute buffers of every architecture: planned and allocated.

    python -m scripts.memory_check.graphs [NAME ...]

llama.cpp itself makes a small model from metadata alone and saves it; that file is planned and
loaded. Prints the errors of three loads each; some architectures llama.cpp cannot save.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import llama_cpp

from scripts.memory_check.architectures import write
from scripts.memory_check.from_metadata import Params, base_library, llama_library
from scripts.memory_check.measure import take_lines
from scripts.memory_check.metadata import ARCHITECTURES
from server.gguf.model_header import read_model_header
from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.plan import plan_memory

_RAM: Final = PlanDevice("CPU", "cpu", 1 << 40, 1 << 40)
# Context, outputs (0: as many as the batch has tokens), flash attention.
_LOADS: Final = ((4096, 0, True), (2048, 8, True), (2048, 0, False))
_FILL: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def main() -> int:
    """Prints a line for each architecture."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(_one(sys.argv[2], Path(sys.argv[3]))))
        return 0
    for name in sys.argv[1:] or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "scripts.memory_check.graphs", "--one", name, folder]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False,
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )  # fmt: skip
        if done.returncode:
            print(f"{name:<18} not saved or not loaded")
            continue
        errors = [f"{part} {error:+.1%}" for part, error in json.loads(done.stdout)]
        print(f"{name:<18} {', '.join(errors)}", flush=True)
    return 0


def _one(name: str, folder: Path) -> list[tuple[str, float]]:
    """The errors of the weights and of the three compute buffers, as fractions."""
    lines = take_lines()
    path = _saved(name, folder)
    header = read_model_header(path)
    found: list[tuple[str, float]] = []
    for n_ctx, n_outputs, flash_attn in _LOADS:
        lines.clear()
        _load(path, n_ctx, n_outputs, flash_attn=flash_attn)
        disabled = any("Flash Attention" in line and "disabled" in line for line in lines)
        settings = PlanSettings(
            (_RAM,), ctx_size=n_ctx, n_seq_max=8, n_outputs_max=n_outputs,
            flash_attn=flash_attn and not disabled,
        )  # fmt: skip
        plan = plan_memory(header, None, settings)
        for part, words in (("weights", "model"), ("compute", "compute")):
            sizes = [float(line.split("=")[1].split()[0]) for line in lines
                     if f"{words} buffer size =" in line]  # fmt: skip
            # The compute buffer is logged again when it is reserved again.
            size = (sum(sizes) if part == "weights" else sizes[-1]) * 2**20
            found.append((part, plan.of(part) / size - 1))
    return [found[0], *(one for one in found if one[0] == "compute")]


def _saved(name: str, folder: Path) -> Path:
    metadata, path = folder / "metadata.gguf", folder / "model.gguf"
    write(metadata, name)
    read = base_library().gguf_init_from_file(str(metadata).encode(), Params(True, None))
    library = llama_library()
    params = llama_cpp.llama_model_default_params()
    model = library.llama_model_init_from_user(
        read, ctypes.cast(_FILL(lambda _tensor, _data: None), ctypes.c_void_p), None, params
    )
    library.llama_model_save_to_file(ctypes.c_void_p(model), str(path).encode())
    llama_cpp.llama_model_free(model)
    return path


def _load(path: Path, n_ctx: int, n_outputs: int, *, flash_attn: bool) -> None:
    params = llama_cpp.llama_model_default_params()
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = False
    model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    wanted = llama_cpp.llama_context_default_params()
    wanted.kv_unified, wanted.n_seq_max, wanted.n_batch = True, 8, 512
    wanted.n_ctx, wanted.n_outputs_max = n_ctx, n_outputs
    wanted.flash_attn_type = -1 if flash_attn else 0
    context = llama_cpp.llama_init_from_model(model, wanted)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


if __name__ == "__main__":
    raise SystemExit(main())
