"""Uploaded files: kept in memory, within a budget, until they expire or are deleted."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.api.http.record import caller
from server.errors import NotFoundError, PayloadTooLarge

# Beside the budget of bytes, or empty files would be free.
_MOST_FILES: Final = 10_000


@dataclass(slots=True, frozen=True)
class StoredFile:
    """An upload. Times are in seconds since the epoch; without ``expires_at`` it stays.

    ``owner`` is the name of the API key that it came with; other keys do not find it.
    """

    id: str
    filename: str
    purpose: str
    content: bytes
    created_at: int
    expires_at: int | None
    owner: str = ""


class FileStore:
    """The uploads of this process. Lives on the event loop, and does nothing that blocks.

    ``max_bytes`` bounds all files together. ``expire`` is in seconds, 0 for never.
    """

    def __init__(self, max_bytes: int, expire: int, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._expire = expire
        self._clock = clock
        self._files: dict[str, StoredFile] = {}

    def add(
        self, content: bytes, filename: str, purpose: str, expires_after: int | None = None
    ) -> StoredFile:
        """Keep a file, for ``expires_after`` seconds or as long as the store keeps any.

        Raises PayloadTooLarge when the store is full: no file is dropped for another one.
        """
        self._forget_expired()
        used = sum(len(file.content) for file in self._files.values())
        if used + len(content) > self._max_bytes or len(self._files) >= _MOST_FILES:
            raise PayloadTooLarge(
                f"The uploads are full: {len(self._files)} files hold {used:,} of"
                f" {self._max_bytes:,} bytes. Delete some, or wait until they expire.",
                param="file",
                code="files_full",
            )
        now = int(self._clock())
        seconds = self._expire if expires_after is None else expires_after
        file = StoredFile(
            # 122 random bits: an id cannot be guessed.
            id=f"file-{uuid.uuid4().hex}",
            filename=filename,
            purpose=purpose,
            content=content,
            created_at=now,
            expires_at=now + seconds if seconds else None,
            owner=caller.get(),
        )
        self._files[file.id] = file
        return file

    def get(self, file_id: str) -> StoredFile:
        """The caller's file. Raises NotFoundError if it never was, is deleted or has expired."""
        self._forget_expired()
        file = self._files.get(file_id)
        if file is None or file.owner != caller.get():
            raise NotFoundError(
                f"No such file: {file_id[:100]!r}.", param="file_id", code="file_not_found"
            )
        return file

    def delete(self, file_id: str) -> None:
        """Forget the file. Raises NotFoundError."""
        del self._files[self.get(file_id).id]

    def list(self) -> list[StoredFile]:
        """All of the caller's files, the oldest first."""
        self._forget_expired()
        return [file for file in self._files.values() if file.owner == caller.get()]

    def _forget_expired(self) -> None:
        now = self._clock()
        for file in list(self._files.values()):
            if file.expires_at is not None and file.expires_at <= now:
                del self._files[file.id]
