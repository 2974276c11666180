"""Pictures are looked up on disk before they are encoded, in a thread: disks can be slow."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.cores import unbind
from server.engine.encoding import EncodeDone
from server.engine.image_store import ImageStore
from server.engine.request import Picture

logger = logging.getLogger(__name__)


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
