"""Encoded pictures on disk: they survive a restart, and several servers may share the folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.cpu_cores import unbind
from server.engine.request import Picture
from server.engine.vision.encode import EncodeDone
from server.errors import StartupError

logger = logging.getLogger(__name__)

_SUFFIX = ".rows"
_TEMPORARY = ".tmp-"
_FORMAT = 1
# A header is a few hundred bytes; a first line longer than this is not one of ours.
_MAX_HEADER = 4096


@dataclass(slots=True)
class _Header:
    """What a file says of itself, in JSON on its first line; the rows follow, little-endian."""

    tower: str
    picture: str
    shape: tuple[int, int]
    blake2b: str
    format: int = _FORMAT

    def line(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, sort_keys=True).encode("ascii") + b"\n"


class ImageStore:
    """Rows by the digest of their picture, for one tower; other towers' files are never read.

    A file is written aside and renamed, and its checksum is verified when it is read: a torn or
    altered one is removed and counts as missing. Beyond ``max_bytes`` the ones that were used
    longest ago go. Not thread-safe: one thread does all of it.
    """

    def __init__(self, folder: Path, tower: str, max_bytes: int) -> None:
        """Makes the folder and counts what is in it.

        Raises:
            StartupError: the folder cannot be made or written.
        """
        self._folder = folder
        self._tower = tower
        self._max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, dir=folder):
                pass
            self.n_bytes = sum(size for _, size, _ in self._files())
        except OSError as error:
            raise StartupError(
                f"--image-cache-dir: cannot use {folder}: {error.strerror or error}"
            ) from error

    def get(self, digest: str) -> NDArray[np.float32] | None:
        """The rows, float32 [n_tokens, n_embd], or None where there are no sound ones."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        rows = self._read(data, digest)
        with contextlib.suppress(OSError):
            if rows is None:
                logger.warning("%s is damaged, removed", path)
                path.unlink()
                self.n_bytes -= len(data)
            else:
                os.utime(path)
        return rows

    def put(self, digest: str, rows: NDArray[np.float32]) -> None:
        """Keeps the rows. A full disk is logged; the request goes on."""
        path = self._path(digest)
        body = np.ascontiguousarray(rows, "<f4").tobytes()
        shape = (rows.shape[0], rows.shape[1])
        line = _Header(self._tower, digest, shape, _checksum(body)).line()
        if len(line) + len(body) > self._max_bytes:
            return
        try:
            if path.exists():
                return
            descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(line + body)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self.n_bytes += len(line) + len(body)
            if self.n_bytes > self._max_bytes:
                self._make_room()
        except OSError as error:
            logger.warning("cannot keep an encoded picture in %s: %s", self._folder, error)

    def _path(self, digest: str) -> Path:
        name = hashlib.sha256(f"{self._tower} {digest}".encode()).hexdigest()
        return self._folder / f"{name}{_SUFFIX}"

    def _read(self, data: bytes, digest: str) -> NDArray[np.float32] | None:
        line, found, body = data[:_MAX_HEADER].partition(b"\n")
        if not found:
            return None
        body = data[len(line) + 1 :]
        try:
            header = json.loads(line)
            n_tokens, n_embd = map(int, header["shape"])
            rows = np.frombuffer(body, "<f4").reshape(n_tokens, n_embd).astype(np.float32)
            expected = _Header(self._tower, digest, (n_tokens, n_embd), _checksum(body)).line()
        except (ValueError, TypeError, KeyError):
            return None
        return rows if line + b"\n" == expected else None

    def _make_room(self) -> None:
        files = sorted(self._files())
        self.n_bytes = sum(size for _, size, _ in files)
        # Somewhat more than asked for, so that not every picture has the folder listed again.
        goal = self._max_bytes * 0.9
        for _, size, path in files:
            if self.n_bytes <= goal:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            self.n_bytes -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of last use, bytes and path of every file; other processes' may vanish meanwhile."""
        files = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        return files


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=32).hexdigest()


@dataclass(slots=True, frozen=True)
class EncodeQueued:
    """The disk does not have these: they now wait for the tower. Wakes the engine's loop."""

    pictures: list[Picture]


class KeptEncodes:
    """Stands before the encoder: answers with what the store has, and hands on what it has not."""

    def __init__(
        self,
        store: ImageStore,
        encode: Callable[[list[Picture]], None],
        post: Callable[[Any], None],
    ) -> None:
        """``encode`` queues pictures for the tower; ``post`` puts a message to the loop."""
        self._store = store
        self._encode = encode
        self._post = post
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="image-store", daemon=True)
        self._thread.start()

    def submit(self, pictures: list[Picture]) -> None:
        """Looks pictures up; returns at once."""
        self._jobs.put(lambda: self._find(pictures))

    def keep(self, digest: str, rows: NDArray[np.float32]) -> None:
        """Writes rows to the store; returns at once."""
        self._jobs.put(lambda: self._store.put(digest, rows))

    def close(self) -> None:
        """Finishes what was asked for and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        unbind()
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                # Whatever a disk does, the thread lives on: others' pictures wait for it.
                logger.exception("the store of encoded pictures failed; it goes on")

    def _find(self, pictures: list[Picture]) -> None:
        missing = []
        for picture in pictures:
            rows = self._look_up(picture)
            if rows is not None and len(rows) == picture.n_tokens:
                self._post(EncodeDone(picture, rows, "", seconds=0.0, kept=True))
            else:
                missing.append(picture)
        if missing:
            self._encode(missing)
            self._post(EncodeQueued(missing))

    def _look_up(self, picture: Picture) -> NDArray[np.float32] | None:
        try:
            return self._store.get(picture.image.digest)
        except Exception:
            logger.exception("an encoded picture cannot be read; it is encoded anew")
            return None
