"""The folder of rewritten towers: keyed by content and change, checked before each use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.errors import StartupError
from server.mmproj.rewrite import TEMPORARY

_CHUNK: Final = 1 << 22
_DAY: Final = 86400.0


class TowerCache:
    """Files of one folder that several servers may share.

    An entry counts only with its digest beside it, which is written last; so neither a torn file
    nor one that was changed later is ever used, and two servers at once write the same twice.
    """

    def __init__(self, folder: Path) -> None:
        """Makes the folder and removes what a killed server left in it.

        Raises:
            StartupError: the folder cannot be made or written.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f"{TEMPORARY}*"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - _DAY:
                        path.unlink()
        except OSError as error:
            raise _cannot_use(folder, error) from error

    def get(self, source: Path, tag: str, make: Callable[[Path], None]) -> Path:
        """The file made from ``source`` by the change called ``tag``; ``make`` writes it.

        Raises:
            StartupError: source or folder cannot be read or written; also what ``make`` raises.
        """
        try:
            entry = self._folder / f"{self.digest(source)}-{tag}.gguf"
            seal = entry.with_suffix(".sha256")
            if not (entry.is_file() and _read(seal) == self.digest(entry)):
                make(entry)
                _write(seal, self.digest(entry))
        except OSError as error:
            raise _cannot_use(self._folder, error) from error
        return entry

    def digest(self, path: Path) -> str:
        """SHA-256 of the content, remembered by path, size and time of change."""
        stat = path.stat()
        identity = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        name = hashlib.sha256(str(identity[0]).encode("utf-8", "surrogateescape")).hexdigest()
        note = self._folder / f"{name}.digest"
        with contextlib.suppress(ValueError):
            known = json.loads(_read(note))
            if isinstance(known, list) and known[:-1] == identity and isinstance(known[-1], str):
                return known[-1]
        digest = _sha256(path)
        _write(note, json.dumps([*identity, digest]))
        return digest


def content_digest(cache_dir: Path, path: Path) -> str:
    """SHA-256 of a tower's file, remembered in the folder of prepared towers.

    Raises:
        StartupError: file or folder cannot be read or written.
    """
    folder = towers_dir(cache_dir)
    try:
        return TowerCache(folder).digest(path)
    except OSError as error:
        raise _cannot_use(folder, error) from error


def towers_dir(cache_dir: Path) -> Path:
    """The folder of prepared towers."""
    return cache_dir / "towers"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path) -> str:
    """The text of a small file, empty where there is none."""
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


def _cannot_use(folder: Path, error: OSError) -> StartupError:
    return StartupError(
        f"cannot keep prepared vision towers in {folder}: {error.strerror or error}"
        " (--cache-dir names another place, --llava-fix off does without)"
    )
