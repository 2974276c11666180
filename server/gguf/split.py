"""The names of a model in several files (llama.cpp's ``llama_split_path``)."""

from __future__ import annotations

import re
from typing import Final

_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def split_names(name: str) -> list[str]:
    """The names of all parts of the model that ``name`` is a part of; else ``name`` alone."""
    found = _PART.search(name)
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        return [name]
    stem, total = name[: found.start()], found[2]
    return [f"{stem}-{part:05}-of-{total}.gguf" for part in range(1, int(total) + 1)]


def is_first_part(name: str) -> bool:
    """Whether a file is a model of its own, or the first part of one."""
    return split_names(name)[0] == name


def stem_of(name: str) -> str:
    """A file's name without ``.gguf`` and without the number of its part."""
    return re.sub(r"\.gguf$", "", _PART.sub("", name), flags=re.IGNORECASE)
