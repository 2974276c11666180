"""Pool: the mean of a request's rows, as they are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.messages import Pooling

# Every row of these batches brings its logits along, whether wanted or not (llama_set_embeddings):
# 64 rows keep them within the buffer that there is for 64 idle sequences and more.
MOST_ROWS = 64


@dataclass(slots=True, eq=False)
class Pool:
    """Sums rows [n, width] in double precision; ``vector`` is their mean, float32 [width]."""

    kind: Pooling
    count: int = 0
    _total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, rows: NDArray[np.float32]) -> None:
        """Takes rows in."""
        total = rows.sum(axis=0, dtype=np.float64)
        self._total = self._total + total if self.count else total
        self.count += len(rows)

    def clear(self) -> None:
        """Forgets all rows: they will be computed again."""
        self.count = 0

    @property
    def vector(self) -> NDArray[np.float32]:
        """The mean."""
        return (self._total / max(self.count, 1)).astype(np.float32)
