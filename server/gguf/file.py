"""Files on this machine, and the one line for those that cannot be used."""

from __future__ import annotations

import gzip
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from server.errors import StartupError
from server.gguf.cursor import ArraySource, MalformedError, Tensor
from server.gguf.header import Entry, GGUFHeader, parse_header


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
    return _parsed(path, map_file(path), longest)


class _HeaderAlone:
    """The bytes of a header whose file is as long as it says."""

    size: Final = 1 << 50

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` on."""
        return self._data[start : start + count].ljust(count, b"\0")


def read_shipped_header(path: Path) -> GGUFHeader:
    """A header that is kept without its file's weights, compressed.

    Raises:
        StartupError: there is no such file, or it is no header.
    """
    try:
        source = _HeaderAlone(gzip.decompress(path.read_bytes()))
        return parse_header(source, raw=False)
    except (OSError, EOFError, MalformedError) as error:
        raise StartupError(f"cannot read {path}: {error}") from error


def unusable(name: object, error: MalformedError) -> StartupError:
    """The one line for a damaged file."""
    return StartupError(
        f"{name} cannot be used: {error}; download or convert it again"
        " (`llava-server pull` repairs what it has downloaded)"
    )


__all__ = ["Entry", "GGUFFile", "Tensor", "open_gguf"]


@dataclass(slots=True, frozen=True)
class GGUFFile:
    """An opened file; ``data`` is all of it, memory-mapped."""

    path: Path
    header: GGUFHeader
    data: NDArray[np.uint8] = field(repr=False)

    @property
    def metadata(self) -> dict[str, Entry]:
        """The header's metadata."""
        return self.header.metadata

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The header's tensors."""
        return self.header.tensors

    @property
    def alignment(self) -> int:
        """Where tensors may begin."""
        return self.header.alignment

    def bytes_of(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The tensor's bytes, uint8 [n_bytes], still on the disk."""
        return self.data[tensor.offset : tensor.offset + tensor.n_bytes]


def open_gguf(path: Path) -> GGUFFile:
    """Opens and checks a GGUF file of version 2 or 3; tensor data is not read.

    Raises:
        StartupError: there is no such file, or it is not a whole GGUF.
    """
    data = map_file(path)
    return GGUFFile(path, _parsed(path, data, None), data)


# A start reads a model, in parts perhaps, and a mmproj; several places ask for each.
_headers: Final[LRUCache[tuple[object, ...], GGUFHeader]] = LRUCache(16)
_lock: Final = Lock()
# Seconds after which a file that is written again has another time of change.
_TICK: Final = 2.0


def _parsed(path: Path, data: NDArray[np.uint8], longest: int | None) -> GGUFHeader:
    """The file's header, parsed once as long as the file stays as it is."""
    stat = path.stat()
    version = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, longest)
    with _lock:
        known = _headers.get(version)
    if known is not None:
        return known
    try:
        # The bytes of entries are for rewriting, which reads the lists, too.
        header = parse_header(ArraySource(data), raw=longest is None, longest=longest)
    except MalformedError as error:
        raise unusable(path, error) from error
    if time.time() - stat.st_mtime > _TICK:
        with _lock:
            _headers[version] = header
    return header
