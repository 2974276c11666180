"""The keys that are valid now, and the requests that came in with each."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from server.key_file import Key, digest_of

logger = logging.getLogger(__name__)

CALLED_OFF = "the API key was revoked"


@dataclass(slots=True, eq=False)
class Visit:
    """A request in work, and the key that let it in."""

    key: Key
    task: asyncio.Task[object] | None
    revoked: bool = False


class KeyRing:
    """Finds the key that was given. ``read`` gives the file's keys, again at each reload.

    Raises (``read`` does) ConfigError; at a reload the keys of before stay valid then.
    """

    def __init__(
        self, fixed: Sequence[str] = (), read: Callable[[], tuple[Key, ...]] | None = None
    ) -> None:
        self._fixed = tuple(
            Key(f"api-key-{number}", digest_of(key.encode())) for number, key in enumerate(fixed, 1)
        )
        self._read = read or tuple
        self._visits: set[Visit] = set()
        self._keys = (*self._fixed, *self._read())
        # Keys that may come later count, too: an empty file shuts everybody out.
        self.needed = bool(self._fixed) or read is not None

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, given: bytes) -> Key | None:
        """The key whose secret was given.

        All are compared, each in constant time: how long it takes tells nothing of them.
        """
        digest, found = digest_of(given), None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def reload(self) -> None:
        """Reads the file again, and calls off what runs for keys that are valid no more."""
        before = len(self._keys)
        self._keys = (*self._fixed, *self._read())
        valid = {key.digest for key in self._keys}
        called_off = [visit for visit in self._visits if visit.key.digest not in valid]
        logger.info(
            "API keys: %d, were %d; %d requests called off",
            *(len(self._keys), before, len(called_off)),
        )
        for visit in called_off:
            visit.revoked = True
            if visit.task is not None:
                visit.task.cancel(CALLED_OFF)

    @contextmanager
    def visit(self, key: Key) -> Iterator[Visit]:
        """The task at hand works for a key's owner."""
        visit = Visit(key, asyncio.current_task())
        self._visits.add(visit)
        try:
            yield visit
        finally:
            self._visits.discard(visit)
