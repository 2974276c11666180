"""Embeddings of pictures that were encoded before, bounded in bytes, least recently used out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class ImageCache:
    """Rows by digest. The digest covers the picture's bytes and its preprocessing; the tower is
    the same for as long as the process lives. ``max_bytes`` 0 keeps nothing here. ``to_disk``
    is given all rows that are new.
    """

    def __init__(self, max_bytes: int, to_disk: Callable[[str, Rows], None] | None = None) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.queries = 0
        self.hits = 0
        self.disk_hits = 0
        self._to_disk = to_disk
        self._rows: OrderedDict[str, Rows] = OrderedDict()

    def get(self, digest: str) -> Rows | None:
        """The rows, float32 [n_tokens, n_embd], or None; counts both."""
        self.queries += 1
        rows = self._rows.get(digest)
        if rows is not None:
            self.hits += 1
            self._rows.move_to_end(digest)
        return rows

    def put(self, digest: str, rows: Rows, *, on_disk: bool = False) -> None:
        """Keeps the rows, if they fit at all, and drops the oldest ones beyond the bound.

        ``on_disk``: that is where they come from.
        """
        self.disk_hits += on_disk
        if self._to_disk is not None and not on_disk:
            self._to_disk(digest, rows)
        if digest in self._rows or rows.nbytes > self.max_bytes:
            return
        self._rows[digest] = rows
        self.n_bytes += rows.nbytes
        while self.n_bytes > self.max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.n_bytes -= oldest.nbytes
