"""What llama.cpp allocates for a model that is all metadata; run as a process of its own.

    python -m scripts.memory_check.from_metadata FILE.gguf '{"n_ctx": 16384, "n_seq_max": 4}'

Prints the bytes of KV cache and states as one line of JSON. llama.cpp aborts on what it does not
like, hence the process.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import llama_cpp

_SIZE: Final = re.compile(r"(llama_kv_cache|llama_memory_recurrent).*: size = +([\d.]+) MiB \(")
_BASE: Final = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"


class Params(ctypes.Structure):
    """``gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def main() -> int:
    """Loads, prints, exits with 1 where llama.cpp does not load it."""
    lines: list[str] = []

    def take(_level: int, text: bytes, _user_data: object) -> None:
        lines.extend(text.decode("utf-8", "replace").splitlines())

    callback = llama_cpp.llama_log_callback(take)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    base = base_library()
    metadata = base.gguf_init_from_file(sys.argv[1].encode(), Params(True, None))
    model = _model(metadata)
    context = model and _context(model, json.loads(sys.argv[2]))
    if not context:
        print("\n".join(lines[-6:]), file=sys.stderr)
        return 1
    found: dict[str, float] = {}
    for line in lines:
        if match := _SIZE.match(line):
            found[match[1]] = found.get(match[1], 0.0) + float(match[2])
    print(json.dumps(found))
    return 0


def base_library() -> ctypes.CDLL:
    """ggml's library, for what llama_cpp does not bind."""
    base = ctypes.CDLL(str(_BASE))
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = (ctypes.c_char_p, Params)
    return base


def llama_library() -> ctypes.CDLL:
    """llama.cpp's library, for what llama_cpp does not bind."""
    library = ctypes.CDLL(str(_BASE.with_name("libllama.so")))
    pointer = ctypes.c_void_p
    library.llama_model_init_from_user.restype = pointer
    library.llama_model_init_from_user.argtypes = (
        pointer, pointer, pointer, llama_cpp.llama_model_params,
    )  # fmt: skip
    return library


def _model(metadata: int) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.no_alloc = True
    return llama_library().llama_model_init_from_user(metadata, None, None, params)


def _context(model: Any, wanted: dict[str, Any]) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.kv_unified = True
    for name, value in wanted.items():
        setattr(params, name, value)
    return llama_cpp.llama_init_from_model(model, params)


if __name__ == "__main__":
    raise SystemExit(main())
