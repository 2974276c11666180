"""KV cache and states of every architecture: predicted and allocated.

    python -m scripts.memory_check.architectures [NAME ...]

Exits with 1 where a prediction is off by more than 0.1 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from gguf import GGUFWriter

from scripts.memory_check.metadata import ARCHITECTURES, metadata
from server.gguf.model_header import read_model_header
from server.memory.estimate.inputs import PlanDevice, PlanSettings
from server.memory.estimate.kv_cache import layer_bytes

_MIB: Final = 1 << 20
_RAM: Final = PlanDevice("CPU", "cpu", 1 << 40, 1 << 40)
SETTINGS: Final[tuple[dict[str, Any], ...]] = (
    {"n_ctx": 16384, "n_seq_max": 4, "swa_full": True},
    {"n_ctx": 16384, "n_seq_max": 4, "swa_full": False},
)


def main() -> int:
    """Compares, and prints a line for each."""
    names = sys.argv[1:] or list(ARCHITECTURES)
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for wanted in SETTINGS:
                predicted, allocated, why = compare(name, wanted, Path(folder))
                bad = allocated is not None and abs(predicted - allocated) > max(
                    allocated * 1e-3, 0.02 * _MIB
                )
                worst += bad
                shown = f"{allocated / _MIB:10.2f}" if allocated is not None else f"  {why}"
                mark = "  WRONG" if bad else ""
                print(f"{name:<18} swa_full={wanted['swa_full']!s:<6}"
                      f"{predicted / _MIB:10.2f}{shown}{mark}")  # fmt: skip
    return 1 if worst else 0


def compare(name: str, wanted: dict[str, Any], folder: Path) -> tuple[float, float | None, str]:
    """Bytes predicted and allocated, None and a reason where llama.cpp does not load it."""
    path = folder / f"{name}.gguf"
    write(path, name)
    settings = PlanSettings(
        (_RAM,), ctx_size=wanted["n_ctx"], n_seq_max=wanted["n_seq_max"],
        n_batch=2048, swa_full=wanted["swa_full"],
    )  # fmt: skip
    predicted = sum(layer_bytes(read_model_header(path), settings))
    command = [sys.executable, "-m", "scripts.memory_check.from_metadata", str(path)]
    done = subprocess.run(
        [*command, json.dumps(wanted)], capture_output=True, text=True, check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return predicted, None, f"not loaded: {reason[-90:]}"
    return predicted, sum(json.loads(done.stdout).values()) * _MIB, ""


def write(path: Path, name: str) -> None:
    """A file of metadata alone."""
    writer = GGUFWriter(path, name)
    for key, value in metadata(name).items():
        full = key if key.startswith("xielu.") else f"{name}.{key}"
        if isinstance(value, bool):
            writer.add_bool(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        elif isinstance(value, float):
            writer.add_float32(full, value)
        else:
            writer.add_array(full, value)
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"piece{index}" for index in range(512)])
    writer.add_token_scores([0.0] * 512)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


if __name__ == "__main__":
    raise SystemExit(main())
