"""The unified KV cache as the scheduler sees it: sequences, and the cells that they share.

A mirror of llama.cpp's own bookkeeping (llama-kv-cache.cpp): a cell belongs to every sequence whose
id it carries, copying a prefix costs no cell, and a cell is free when no sequence has it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


class KVCache:
    """Hands out sequence ids and cells; which cell it is matters only for counting.

    A sequence is busy until it is made idle; idle ones may be closed for their cells any time. One
    whose sliding window was restored has cells of its own for it in llama.cpp's cache of windows,
    which is as large as this one but would hold no more cells otherwise: they count here, too.
    """

    def __init__(self, n_seq: int, n_cells: int) -> None:
        self.n_seq, self.n_cells = n_seq, n_cells
        self._free_ids = list(range(n_seq - 1, -1, -1))
        self._free_cells = list(range(n_cells))
        self._users = np.zeros(n_cells, np.int32)
        self._busy_users = np.zeros(n_cells, np.int32)
        self._cells: dict[int, list[int]] = {}
        self._windows: dict[int, list[int]] = {}

    @property
    def has_sequence(self) -> bool:
        """Whether a sequence id is free."""
        return bool(self._free_ids)

    @property
    def free(self) -> int:
        """Cells that no sequence has."""
        return len(self._free_cells)

    @property
    def pinned(self) -> int:
        """Cells of busy sequences, each counted once: those that cannot be had."""
        return int(np.count_nonzero(self._busy_users))

    @property
    def idle(self) -> int:
        """Cells that only idle sequences have."""
        return self.n_cells - self.free - self.pinned

    def unpinned(self, seq_id: int, count: int) -> int:
        """How many of a sequence's first ``count`` cells no busy sequence has."""
        return int(np.count_nonzero(self._busy_users[self._cells[seq_id][:count]] == 0))

    def open(self) -> int:
        """A fresh busy sequence without cells."""
        seq_id = self._free_ids.pop()
        self._cells[seq_id] = []
        return seq_id

    def share(self, source: int, target: int, count: int) -> None:
        """Gives the first ``count`` cells of ``source`` to the empty busy ``target`` as well."""
        self._cells[target] = cells = self._cells[source][:count]
        if source in self._windows:
            self._windows[target] = self._windows[source]
            cells = cells + self._windows[target]
        self._users[cells] += 1
        self._busy_users[cells] += 1

    def join(self, source: int, target: int, first: int, count: int) -> None:
        """Appends cells of the busy ``source``, from its ``first``, to the busy ``target``."""
        cells = self._cells[source][first : first + count]
        self._cells[target] += cells
        self._users[cells] += 1
        self._busy_users[cells] += 1

    def take_window(self, seq_id: int, count: int) -> None:
        """Counts cells for the restored window of a busy sequence, in place of a shared one."""
        old = self._windows.pop(seq_id, [])
        self._users[old] -= 1
        self._busy_users[old] -= 1
        self._free_cells += [cell for cell in old if not self._users[cell]]
        self._windows[seq_id] = self._pop_cells(count)

    def release_windows(self) -> None:
        """Counts windows no longer, if only one sequence is left: it has no more cells there."""
        if len(self._cells) != 1:
            return
        for cells in self._windows.values():
            self._users[cells] = self._busy_users[cells] = 0
            self._free_cells += cells
        self._windows.clear()

    def _pop_cells(self, count: int) -> list[int]:
        cells = self._free_cells[-count:]
        del self._free_cells[-count:]
        self._users[cells] += 1
        self._busy_users[cells] += 1
        return cells

    def take(self, seq_id: int, count: int) -> None:
        """Appends free cells to a busy sequence; the caller has seen that there are some."""
        if count == 1:  # every decode of every sequence: NumPy's fancy indexing would be felt
            cell = self._free_cells.pop()
            self._users[cell] += 1
            self._busy_users[cell] += 1
            self._cells[seq_id].append(cell)
        elif count:
            self._cells[seq_id] += self._pop_cells(count)

    def make_idle(self, seq_id: int) -> None:
        """The sequence is computed no further."""
        self._busy_users[self._all_cells(seq_id)] -= 1

    def close(self, seq_id: int) -> None:
        """Takes back the id of an idle sequence, and its cells that no other sequence has."""
        cells: NDArray[np.int64] = np.array(self._all_cells(seq_id), np.int64)
        del self._cells[seq_id]
        self._windows.pop(seq_id, None)
        self._users[cells] -= 1
        self._free_cells += cells[self._users[cells] == 0].tolist()
        self._free_ids.append(seq_id)

    def _all_cells(self, seq_id: int) -> list[int]:
        return self._cells[seq_id] + self._windows.get(seq_id, [])

    def check_integrity(self, busy: Mapping[int, int], idle: Mapping[int, int]) -> None:
        """Raises RuntimeError where the counts of cells do not agree with each other.

        ``busy`` and ``idle`` are the number of cells that each sequence should have.
        """
        lengths = {seq_id: len(cells) for seq_id, cells in self._cells.items()}
        if lengths != {**busy, **idle}:
            raise RuntimeError(f"sequences have {lengths} cells, not {dict(busy)} and {dict(idle)}")
        if set(self._free_ids) & lengths.keys():
            raise RuntimeError("a sequence id is free and in use")
        for found, seq_ids in ((self._users, lengths), (self._busy_users, busy)):
            cells = [cell for seq_id in seq_ids for cell in self._all_cells(seq_id)]
            if not np.array_equal(np.bincount(cells, minlength=self.n_cells), found):
                raise RuntimeError("a cell is counted for more or fewer sequences than have it")
        if sorted(self._free_cells) != np.flatnonzero(self._users == 0).tolist():
            raise RuntimeError("the free cells are not those that no sequence has")
