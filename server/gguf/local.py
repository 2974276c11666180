"""Files on this machine, and the one line for those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.errors import StartupError
from server.gguf.cursor import MalformedError
from server.gguf.header import GGUFHeader, parse_header
from server.gguf.source import ArraySource


def map_file(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, uint8 [size], memory-mapped.

    Raises:
        StartupError: it cannot be read, or is empty.
    """
    try:
        return np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise StartupError(f"cannot read {path}: {reason}") from error


def read_header(path: Path, *, longest: int | None = None) -> GGUFHeader:
    """The header of a file; lists of more than ``longest`` items are passed over.

    Raises:
        StartupError: there is no such file, or it is not a whole GGUF.
    """
    try:
        return parse_header(ArraySource(map_file(path)), raw=False, longest=longest)
    except MalformedError as error:
        raise unusable(path, error) from error


def unusable(name: object, error: MalformedError) -> StartupError:
    """The one line for a damaged file."""
    return StartupError(f"{name} cannot be used: {error}; download or convert it again")
