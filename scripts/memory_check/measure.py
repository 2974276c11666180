"""What llama.cpp allocates for one case, part by part; run as a process of its own.

    python -m scripts.memory_check.measure '{"model": ..., "mmproj": ..., "n_ctx": 4096, ...}'

Loads the files as the server does, without mapping them (a mapped file is the kernel's cache, and
its range in llama.cpp's log overlaps the repacked copies), computes one full batch and encodes one
picture, and prints one line of JSON: bytes by part as llama.cpp reports them, and those of the
process itself.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from typing import Any, Final

import llama_cpp
import psutil
from llama_cpp import mtmd_cpp

_MIB: Final = 1 << 20
_BUFFER: Final = re.compile(
    r"(\w+): +\S+ +(model|KV|RS|output|compute) buffer size = +([\d.]+) MiB"
)
_TOWER: Final = re.compile(r"load_hparams: model size: +([\d.]+) MiB")
_PARTS: Final = {"model": "weights", "KV": "kv_cache", "RS": "kv_cache", "output": "output"}
_LINES: list[str] = []


@llama_cpp.llama_log_callback
def _take(_level: int, text: bytes, _user_data: object) -> None:
    _LINES.extend(text.decode("utf-8", "replace").splitlines())


def main() -> int:
    """Measures and prints."""
    case = json.loads(sys.argv[1])
    take_lines()
    llama_cpp.llama_backend_init()
    before = _own_bytes()
    model = _model(case)
    vision = _vision(case, model) if case.get("mmproj") else None
    context = _context(case, model)
    if not model or not context:
        print("\n".join(_LINES[-5:]), file=sys.stderr)
        return 1
    loaded = _own_bytes() - before
    _one_batch(case, model, context)
    if vision:
        _one_picture(case, vision)
    print(json.dumps({"parts": _parts(), "loaded": loaded, "used": _own_bytes() - before}))
    return 0


def take_lines() -> list[str]:
    """From now on, all that llama.cpp and libmtmd log."""
    llama_cpp.llama_log_set(_take, ctypes.c_void_p(0))
    mtmd_cpp.mtmd_helper_log_set(_take, ctypes.c_void_p(0))
    return _LINES


def _own_bytes() -> int:
    """Anonymous bytes of the process: what it has for itself, without files and libraries."""
    info = psutil.Process().memory_full_info()
    return int(info.uss)


def _model(case: dict[str, Any]) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    return llama_cpp.llama_model_load_from_file(case["model"].encode(), params)


def _vision(case: dict[str, Any], model: Any) -> Any:
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.print_timings, params.warmup = False, False, True
    params.flash_attn_type = 1 if case["flash_attn"] else 0
    return mtmd_cpp.mtmd_init_from_file(case["mmproj"].encode(), model, params)


def _context(case: dict[str, Any], model: Any) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = 2
    for name in ("n_ctx", "n_seq_max", "n_batch", "n_ubatch", "type_k", "type_v"):
        setattr(params, name, case[name])
    params.flash_attn_type = 1 if case["flash_attn"] else 0
    return llama_cpp.llama_init_from_model(model, params)


def _one_batch(case: dict[str, Any], model: Any, context: Any) -> None:
    count = case["batch"]
    if not count:
        return
    vocab = llama_cpp.llama_model_get_vocab(model)
    token = llama_cpp.llama_vocab_n_tokens(vocab) - 1
    tokens = (llama_cpp.llama_token * count)(*[token] * count)
    batch = llama_cpp.llama_batch_get_one(tokens, count)
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError("llama_decode failed")


def _one_picture(case: dict[str, Any], vision: Any) -> None:
    side = case["side"]
    rgb = bytes(side * side * 3)
    pixels = ctypes.cast(rgb, ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd_cpp.mtmd_bitmap_init(side, side, pixels)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    part = mtmd_cpp.mtmd_input_part(bitmap=bitmap)
    array = (ctypes.POINTER(mtmd_cpp.mtmd_input_part) * 1)(ctypes.pointer(part))
    if mtmd_cpp.mtmd_tokenize_from_parts(vision, chunks, array, 1, False):
        raise RuntimeError("libmtmd refused the picture")
    for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, index)
        if mtmd_cpp.mtmd_input_chunk_get_tokens_image(chunk):
            mtmd_cpp.mtmd_encode_chunk(vision, chunk)


def _parts() -> dict[str, float]:
    found: dict[str, float] = {}
    for line in _LINES:
        if match := _TOWER.search(line):
            found["vision_encoder"] = float(match[1]) * _MIB
        elif match := _BUFFER.search(line):
            function, what, mib = match[1], match[2], float(match[3]) * _MIB
            if what == "compute":
                # clip.cpp reserves the tower's graph, llama-context.cpp the model's.
                part = "compute" if function == "sched_reserve" else "vision_compute"
                found[part] = mib
            else:
                found[_PARTS[what]] = found.get(_PARTS[what], 0.0) + mib
    return found


if __name__ == "__main__":
    raise SystemExit(main())
