"""The unified KV cache as the scheduler sees it: sequence ids and a count of cells."""

from __future__ import annotations


class KVCache:
    """Hands out sequence ids and counts cells; llama.cpp decides where a cell lies."""

    def __init__(self, n_seq: int, n_cells: int) -> None:
        self.n_cells = n_cells
        self._free_ids = list(range(n_seq - 1, -1, -1))
        self._cells: dict[int, int] = {}

    @property
    def has_sequence(self) -> bool:
        """Whether a sequence id is free."""
        return bool(self._free_ids)

    @property
    def used(self) -> int:
        """Cells that running sequences hold."""
        return sum(self._cells.values())

    @property
    def free(self) -> int:
        """Cells that nobody holds."""
        return self.n_cells - self.used

    def open(self) -> int:
        """A fresh sequence id without cells."""
        seq_id = self._free_ids.pop()
        self._cells[seq_id] = 0
        return seq_id

    def take(self, seq_id: int, cells: int) -> None:
        """Gives ``cells`` more cells to a sequence; the caller has seen that they are free."""
        self._cells[seq_id] += cells

    def close(self, seq_id: int) -> int:
        """Takes back the id and its cells; returns how many there were."""
        self._free_ids.append(seq_id)
        return self._cells.pop(seq_id)
