"""How many bytes of the model are loaded, made of what the engine tells and the files' sizes."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from server.messages import EngineConfig, EngineProgress

# llama.cpp's names for a model in several files (llama_split_path).
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
_WEIGHTS, _TOWER = "weights", "vision tower"


class LoadSizes:
    """The bytes of the files that the engine loads, one after the other."""

    def __init__(self, config: EngineConfig) -> None:
        self._model = size_of(config.model)
        self._mmproj = size_of(config.mmproj) if config.mmproj else 0

    def add_to(self, progress: EngineProgress) -> EngineProgress:
        """The progress with the bytes loaded, and their total."""
        loaded = self._model
        if progress.stage == _WEIGHTS:
            loaded = int(progress.fraction * self._model)
        elif progress.stage == _TOWER:
            loaded += int(progress.fraction * self._mmproj)
        else:
            loaded += self._mmproj
        return replace(progress, loaded_bytes=loaded, total_bytes=self._model + self._mmproj)


def size_of(path: Path) -> int:
    """Bytes of a GGUF, of all its parts if it has several; 0 for what is not there."""
    parts = [path]
    if match := _PART.fullmatch(path.name):
        count = int(match[2])
        names = (f"{match[1]}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1))
        parts = [path.parent / name for name in names]
    total = 0
    for part in parts:
        with suppress(OSError):
            total += part.stat().st_size
    return total
